"""The operating system: processes, the allocator, file descriptors."""
