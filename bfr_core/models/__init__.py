"""Everything with weights: how it is declared (`spec`), found (`registry`) and opened (`loader`); roles in `roles`."""
