"""aarch64 on this machine by QEMU user mode, to count the instructions of an inference. Not part of the package."""
