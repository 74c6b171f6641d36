"""The reference engine, on plain grpc.aio."""
