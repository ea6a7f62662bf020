"""The control API: connections and instances as records, and the reconciler that makes instances live up to them."""
