"""Parameters in and out of other libraries; each has a module here, with `read` and `write`."""
