"""Source connectors: each turns one kind of database into Arrow changes."""
