"""What runs an artefact: `base` (the protocol), one module per engine; registered in `edgeaudio.catalog`."""
