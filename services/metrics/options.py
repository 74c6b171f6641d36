"""The bounds of the metrics service, each with its default."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.options import require


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """Seconds, unless a name says otherwise."""

    # How often an instance is asked for its metrics, and how long one answer may take.
    scrape_interval: float = 10.0
    scrape_timeout: float = 5.0
    scrapes_at_once: int = 32
    # Of one answer, uncompressed.
    max_scrape_bytes: int = 16 << 20
    # How long a lost instance counts as down before it is forgotten. One that leaves in order is forgotten at once.
    down_kept: float = 15 * 60.0
    # Series of one scraped instance, or one pushing producer, and of all; more are refused, and counted.
    max_series_per_target: int = 20_000
    max_series: int = 500_000
    max_labels: int = 64
    max_label_bytes: int = 4096
    # Samples are kept for so long, and refused when they are older or so far in the future.
    max_age: float = 15 * 86_400.0
    max_future: float = 600.0
    # One query.
    query_timeout: float = 30.0
    queries_at_once: int = 4
    queries_waiting: int = 64
    max_query_samples: int = 20_000_000
    max_query_cells: int = 10_000_000
    # Steps of a range query, as Prometheus has it.
    max_query_points: int = 11_000
    max_result_series: int = 100_000
    # Rules that name no interval of their own.
    rule_interval: float = 10.0

    def __post_init__(self) -> None:
        require(0.05 <= self.scrape_interval <= 3600, "scrape_interval is not 0.05 to 3600 seconds")
        require(0 < self.scrape_timeout <= self.scrape_interval * 10, "scrape_timeout is not positive")
        for name in ("max_series", "max_series_per_target", "queries_at_once", "max_query_samples", "max_query_points"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
