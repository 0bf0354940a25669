"""The restoration methods, one folder each; `registry.methods` finds them."""
