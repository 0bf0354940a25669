"""Finding faces, turning them upright, telling them apart."""
