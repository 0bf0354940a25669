"""The detectors, one module each; `bfr_core.faces.detect` opens them by name."""
