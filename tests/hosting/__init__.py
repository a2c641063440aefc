"""A real ComfyUI to develop and test against: provisioned, started and opened in a browser.

The standard library alone imports this package, so that it can run before anything is installed.
"""
