"""A shop of four plain grpc.aio services: they know nothing of the mesh but one address to send their calls to."""
