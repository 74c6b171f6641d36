"""What a scrape returns, as samples. Pure; the formats are prometheus-client's to parse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from services.metrics.errors import InvalidError
from services.metrics.options import MetricsOptions
from services.metrics.promql.labels import NAME, Labels, from_mapping
from services.metrics.samples import Meta, Samples

OPEN_METRICS = "application/openmetrics-text"
# Plain text first: it is several times as fast to parse.
ACCEPT = f"text/plain;version=0.0.4;q=1,{OPEN_METRICS};version=1.0.0;q=0.5,*/*;q=0.1"
# Before a label of the instance's own that the target has too.
EXPORTED = "exported_"


def parse(body: bytes, content_type: str, target: Mapping[str, str], at_ms: int, options: MetricsOptions) -> Samples:
    """Return the samples of a scraped body, with the labels of the target.

    Raises:
        InvalidError: it is not in the format that it says, or has too much of something.

    """
    read = open_metrics if content_type.startswith(OPEN_METRICS) else plain
    series: dict[Labels, int] = {}
    ts, values, meta = [], [], {}
    try:
        for family in read(body.decode()):
            for name, labels, value, when in _samples(family):
                found = _labelled(name, labels, target, options)
                if found in series:
                    continue  # it comes twice: the first one counts
                series[found] = len(series)
                ts.append(at_ms if when is None else when)
                values.append(value)
                meta[name] = Meta(family.type, family.unit, family.documentation[:1000])
    except InvalidError:
        raise
    except Exception as error:  # the parser raises whatever it comes to
        raise InvalidError(f"its answer is not in Prometheus' format: {' '.join(str(error).split())[:200]}") from error
    return Samples(
        list(series),
        np.arange(len(series), dtype=np.int64),
        np.array(ts, np.int64),
        np.array(values, np.float64),
        meta,
    )


def _samples(family: Metric) -> Iterator[tuple[str, Mapping[str, str], float, int | None]]:
    for sample in family.samples:
        if sample.name.endswith("_created") and family.type in {"counter", "histogram", "summary"}:
            continue  # when a counter began: of no use to PromQL, and a series for each
        when = None if sample.timestamp is None else round(float(sample.timestamp) * 1000)
        yield sample.name, sample.labels, float(sample.value), when


def _labelled(name: str, labels: Mapping[str, str], target: Mapping[str, str], options: MetricsOptions) -> Labels:
    if len(labels) > options.max_labels:
        raise InvalidError(f"a series of {name[:100]} has {len(labels)} labels; at most {options.max_labels} are taken")
    merged = {**{(EXPORTED + key if key in target else key): value for key, value in labels.items()}, **target}
    merged[NAME] = name
    if sum(len(key) + len(value) for key, value in merged.items()) > options.max_label_bytes:
        raise InvalidError(f"the labels of a series of {name[:100]} are longer than {options.max_label_bytes} bytes")
    return from_mapping(merged)
