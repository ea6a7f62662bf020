"""The paths of the control API. Every route runs in a thread; the guard has let the request in."""
