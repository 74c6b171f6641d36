"""PromQL: parsed by `promql-parser`, planned and evaluated here on numpy arrays, without I/O.

`parse` makes a tree, `plan` says which samples it needs, and `evaluate` computes the answer from them: all steps of a
range query at once. It gives the answers of Prometheus 2.42 (tests/unit/services/metrics/promql/answers.json).
"""
