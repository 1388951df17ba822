"""The engine: bytes, positions, offsets, files and memory. It knows no topic, no message and no policy."""
