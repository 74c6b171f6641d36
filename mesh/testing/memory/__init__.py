"""The control services in memory, over real gRPC on loopback: quick, and enough for what clients of the mesh do.

What is missing, and refused or ignored: storage (a new one begins anew), the history of changes (who resumes gets a
snapshot), pages, active checks, self-protection, flap damping; layers, releases, schemas and secrets of Config; every
query of the log and trace sinks, and metrics. `mesh.testing.real.RealControl` has all of it.
"""
