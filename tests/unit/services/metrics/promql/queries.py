"""The queries of the table: every function, operator and modifier that is served, and how they meet."""

from __future__ import annotations

_RANGES = ("rate", "increase", "irate", "delta", "idelta", "deriv", "changes", "resets")
_OVER_TIME = ("sum", "avg", "min", "max", "count", "last", "present", "stddev", "stdvar")
_AGGREGATIONS = ("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar")
_MATHS = (
    *("abs", "ceil", "floor", "exp", "sqrt", "ln", "log2", "log10", "sgn", "round", "deg", "rad"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
)
_CALENDAR = ("minute", "hour", "day_of_week", "day_of_month", "day_of_year", "days_in_month", "month", "year")

# Asked at every step of a range, and at one moment.
QUERIES = (
    *("temperature", 'temperature{room="hall"}', 'temperature{room!="hall"}', 'temperature{room=~"h.*|attic"}'),
    *(
        'temperature{room!~"h.*"}',
        'temperature{room=~""}',
        '{__name__=~"temp.*",floor="1"}',
        "nothing",
        "sparse",
        "ending",
    ),
    *("temperature offset 5m", "temperature offset -2m", "temperature @ 1700001500", "temperature @ end() offset 1m"),
    *("sum(temperature @ start())", "ending @ 1700000760", "late_total"),
    *(f"{name}(http_requests_total[2m])" for name in _RANGES),
    *(f"{name}(temperature[3m])" for name in _RANGES),
    *(f"{name}(ending[4m])" for name in _RANGES),
    *(f"{name}(sparse[10m])" for name in _RANGES),
    *("rate(late_total[5m])", "increase(late_total[1m])", "rate(http_requests_total[5m] offset 3m)"),
    *("rate(http_requests_total[5m] @ 1700001500)", "increase(http_requests_total[17s])", "delta(flat[5m])"),
    *(f"{name}_over_time(temperature[3m])" for name in _OVER_TIME),
    *(f"{name}_over_time(ending[4m])" for name in _OVER_TIME),
    *(f"{name}_over_time(sparse[7m30s])" for name in _OVER_TIME),
    *(f"quantile_over_time({q}, temperature[4m])" for q in ("0", "0.3", "0.99", "1", "1.5", "-1")),
    *("quantile_over_time(scalar(flat) / 10, temperature[4m])", "holt_winters(temperature[5m], 0.4, 0.3)"),
    *("predict_linear(temperature[10m], 600)", "predict_linear(flat[10m], 60)", "deriv(flat[10m])"),
    "predict_linear(temperature[10m] offset 2m, -60)",
    *(f"{name}(temperature)" for name in _AGGREGATIONS),
    *(f"{name} by (floor) (temperature)" for name in _AGGREGATIONS),
    *(f"{name} without (room) (temperature)" for name in _AGGREGATIONS),
    *("sum by (job, code) (rate(http_requests_total[2m]))", "sum by () (flat)", "sum by (nothing) (temperature)"),
    *("topk(2, temperature)", "bottomk(2, temperature)", "topk by (floor) (1, temperature)", "topk(0, temperature)"),
    *("topk(scalar(flat) - 5, temperature)", "bottomk without (room) (1, temperature)", "topk(100, temperature)"),
    *("quantile(0.5, temperature)", "quantile by (floor) (0.9, temperature)", "quantile(2, temperature)"),
    *('count_values("value", round(temperature))', 'count_values by (floor) ("value", temperature > bool 10)'),
    *(f"{name}(temperature)" for name in _MATHS),
    *("round(temperature, 0.5)", "round(temperature, 5)", "clamp(temperature, 0, 10)", "clamp(temperature, 10, 0)"),
    *("clamp_min(temperature, 12)", "clamp_max(temperature, 12)", "pi()", "time()", "timestamp(temperature)"),
    *("timestamp(temperature offset 1m)", "timestamp(-temperature)", "vector(1)", "vector(time())", "scalar(flat)"),
    *("scalar(temperature)", "absent(nothing)", 'absent(nothing{a="b",c=~"d",e="f",e="g"})', "absent(temperature)"),
    *("absent(sum(nothing))", 'absent_over_time(nothing{a="b"}[5m])', "absent_over_time(ending[1m])", "absent(ending)"),
    *(f"{name}()" for name in _CALENDAR),
    *(f"{name}(vector(1709210000))" for name in _CALENDAR),
    *(f"{name}(vector(-100000))" for name in _CALENDAR),
    *("sort(temperature)", "sort_desc(temperature)", "sort_desc(sum by (job) (rate(http_requests_total[5m])))"),
    *("histogram_quantile(0.9, rate(latency_seconds_bucket[5m]))", "histogram_quantile(0.5, latency_seconds_bucket)"),
    *(
        "histogram_quantile(0.9, sum by (le) (rate(latency_seconds_bucket[5m])))",
        "histogram_quantile(1.5, latency_seconds_bucket)",
    ),
    *('histogram_quantile(0.9, latency_seconds_bucket{le!="+Inf"})', "histogram_quantile(0, latency_seconds_bucket)"),
    *(
        "histogram_quantile(0.99, sum by (le, service) (increase(latency_seconds_bucket[1m])))",
        "histogram_quantile(-1, latency_seconds_bucket)",
    ),
    *('histogram_quantile(0.9, latency_seconds_bucket{le=~"0.1|0.5|[+]Inf"} and on() temperature{room="hall"} > 15)',),
    *(
        "rate(latency_seconds_sum[5m]) / rate(latency_seconds_count[5m])",
        "-temperature",
        "-temperature ^ 2",
        "+temperature",
    ),
    *(f"temperature {op} 3" for op in ("+", "-", "*", "/", "%", "^", "atan2", ">", "<", ">=", "<=", "==", "!=")),
    *(f"3 {op} temperature" for op in ("+", "-", "*", "/", "%", "^", "atan2", ">", "<", ">=", "<=", "==", "!=")),
    *(f"temperature {op} bool 12" for op in (">", "<", ">=", "<=", "==", "!=")),
    *(f"7 {op} 3" for op in ("+", "-", "*", "/", "%", "^", "atan2", "> bool", "== bool")),
    *(
        "1 / 0",
        "-1 / 0",
        "0 / 0",
        "7 % 0",
        "-7 % 3",
        "2 ^ 3 ^ 2",
        "-2 ^ 2",
        "1 + 2 * 3",
        "time() > bool 5",
        "NaN",
        "Inf",
        "0x1F",
    ),
    *("temperature * temperature", "temperature + on(room) temperature", "temperature - ignoring(floor) temperature"),
    *(
        "temperature > temperature offset 1m",
        "temperature > bool (temperature offset 1m)",
        "temperature > on(room) temperature offset 1m",
    ),
    *(
        "rate(http_requests_total[2m]) * on(job) group_left(version) build_info",
        "build_info * on(job) group_right() rate(http_requests_total[2m])",
    ),
    *(
        "sum by (job, code) (rate(http_requests_total[2m])) > on(job, code) limit",
        "http_requests_total / ignoring(code, method, instance) group_left build_info",
    ),
    *(
        'http_requests_total{code="500"} / ignoring(code) http_requests_total{code="200",method="GET"}',
        "http_requests_total > on(job) group_left() (build_info * 1000)",
    ),
    *(
        'sum by (job) (http_requests_total{code="500"}) / sum by (job) (http_requests_total)',
        "build_info - on(job) group_right(version) sum by (job, code) (http_requests_total)",
    ),
    *(
        'temperature and temperature{floor="1"}',
        "temperature or flat",
        'temperature unless temperature{room="hall"}',
        "flat or temperature",
    ),
    *(
        'temperature and on(floor) temperature{room="attic"}',
        'temperature unless on(floor) temperature{room="attic"}',
        "temperature or on(floor) flat",
    ),
    *(
        "temperature > 12 or temperature < 5",
        "(temperature > 12) and on() (flat > 1)",
        "ending or sparse",
        'temperature and ignoring(room) temperature{room="attic"}',
    ),
    *('label_replace(temperature, "house", "h-$1", "room", "(.).*")',),
    *(
        'label_replace(temperature, "x", "${a}-$b$$", "room", "(?P<a>.)(?P<b>.).*")',
        'label_replace(temperature, "x", "y", "nothing", "")',
    ),
    *(
        'label_join(temperature, "both", "-", "room", "floor")',
        'label_join(temperature, "both", "", "nothing")',
        'label_replace(flat, "job", "new", "job", "a")',
    ),
    *(
        "max_over_time(rate(http_requests_total[1m])[5m:30s])",
        "rate(http_requests_total[5m:])",
        "sum_over_time(temperature[5m:1m])",
    ),
    *("avg_over_time((temperature > 10)[5m:30s])", "min_over_time(rate(http_requests_total[1m])[5m:30s] offset 2m)"),
    *(
        "sum_over_time(flat[5m:30s] @ 1700001500)",
        "quantile_over_time(0.9, sum(temperature)[10m:1m])",
        "deriv(sum by (floor) (temperature)[10m:30s])",
    ),
    *(
        "max_over_time(avg_over_time(temperature[2m])[5m:45s])",
        "count_over_time(ending[5m:15s])",
        "rate(sum by (job) (http_requests_total)[5m:20s])",
    ),
    *(
        "sum_over_time(count_over_time(temperature[1m] @ end())[3m:1m])",
        "last_over_time(temperature[1m] offset 1m)",
        "absent_over_time(ending[5m:1m])",
    ),
    *(
        "sum(rate(http_requests_total[5m])) by (job) / ignoring() sum(rate(http_requests_total[5m])) by (job)",
        "abs(sum(temperature) - scalar(flat))",
    ),
    *(
        "temperature * on() group_left() vector(2)",
        "sum(temperature) / count(temperature)",
        "(time() - timestamp(temperature)) < 10",
        "max(temperature) without ()",
    ),
)

# These have an answer in order, at one moment.
ORDERED = ("sort(", "sort_desc(", "topk(", "bottomk(")

# These must fail, in both.
BROKEN = (
    *(
        "rate(temperature)",
        "sum(",
        "temperature{",
        "1 > 2",
        "foo(temperature)",
        "temperature[5m] + 1",
        "{}",
        '{a=~".*"}',
    ),
    *(
        'temperature{room=~"("}',
        "temperature and 1",
        "topk(temperature, 1)",
        '"a" + 1',
        "rate(temperature[5m])[5m]",
        "sum by (a temperature",
    ),
    *(
        "build_info * on() build_info",
        "temperature + on(floor) temperature",
        "http_requests_total * on(job) build_info",
    ),
    *(
        "build_info * on(job) group_left() http_requests_total",
        'label_replace(temperature, "room", "x", "room", ".*")',
        "temperature offset",
    ),
    *(
        'label_replace(temperature, "a-b", "x", "room", ".*")',
        'abs({__name__=~"latency_seconds_(sum|count)"})',
        "topk(NaN, temperature)",
    ),
    *(
        "holt_winters(temperature[5m], 2, 0.3)",
        'rate({__name__=~"latency_seconds_(sum|count)"}[5m])',
        "",
        "temperature[0s]",
        'count_values("a-b", temperature)',
        "max_over_time(time()[5m:1m])",
    ),
)
