"""What tests lean on: real servers, a proxy that fails on demand, the engine as a process, and the row-by-row oracle."""
