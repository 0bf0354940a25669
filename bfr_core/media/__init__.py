"""Pictures in and out: read with all they carry, planned before the first face, published whole or not at all."""
