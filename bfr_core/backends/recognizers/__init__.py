"""Face recognisers, one file for each family of published layouts."""
