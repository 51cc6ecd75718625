"""From a MongoDB collection of plant photos to a calibrated classifier in a web page, in eight phases."""

__version__ = "0.1.0"
