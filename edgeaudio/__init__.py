"""edgeaudio: turn a large audio model into a tiny one and run it where the sound is."""

__version__ = "0.1.0"
