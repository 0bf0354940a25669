"""From degraded faces to restored ones: `faces` crosses the restorer, `photo` brings pictures to it and back."""
