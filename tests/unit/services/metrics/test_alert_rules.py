"""Files of rules, templates and durations, right and wrong."""

from __future__ import annotations

import pytest

from services.metrics.alerts import durations
from services.metrics.alerts.keeper import default_rules
from services.metrics.alerts.rules import read
from services.metrics.alerts.template import compile_template
from services.metrics.errors import InvalidError

GOOD = """
groups:
  - name: a
    interval: 30s
    limit: 10
    labels: {team: "x"}
    rules:
      - {alert: High, expr: "up == 0", for: 1m30s, keep_firing_for: 5m, labels: {severity: page}}
      - {record: "job:up:sum", expr: sum by (job) (up)}
"""


def test_a_file_is_read() -> None:
    (group,) = read("f", GOOD)
    assert (group.name, group.interval, group.limit) == ("a", 30.0, 10)
    high, recorded = group.rules
    assert (high.name, high.alerting, high.for_, high.keep_firing_for) == ("High", True, 90.0, 300.0)
    assert {name: one.render({}, 1) for name, one in high.labels.items()} == {"team": "x", "severity": "page"}
    assert (recorded.name, recorded.alerting) == ("job:up:sum", False)
    assert read("f", "") == ()


def test_the_default_rules_are_good() -> None:
    rules = [rule for group in read("default", default_rules()) for rule in group.rules]
    assert {"InstanceDown", "HighErrorRate", "SlowCalls", "BreakerOpen", "HighMemory", "EventLoopLag"} <= {
        rule.name for rule in rules
    }
    assert all("summary" in rule.annotations for rule in rules)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("groups: [{name: a, rules: [{alert: X, expr: 'sum('}]}]", r"f: groups\[0\].rules\[0\].expr: parse error"),
        ("groups: [{name: a, rules: [{alert: X, expr: 'up[5m]'}]}]", "gives a matrix"),
        ("groups: [{name: a, rules: [{alert: X, expr: up, for: soon}]}]", r"rules\[0\].for: 'soon' is not a duration"),
        ("groups: [{name: a, rules: [{alert: X, record: y, expr: up}]}]", "either 'alert' or 'record'"),
        ("groups: [{name: a, rules: [{expr: up}]}]", "either 'alert' or 'record'"),
        ("groups: [{name: a, rules: [{alert: X}]}]", "expr: it is missing"),
        ("groups: [{name: a, rules: [{record: 'a-b', expr: up}]}]", "cannot name a metric"),
        ("groups: [{name: a, rules: [{record: a, expr: up, for: 5m}]}]", "has no 'for'"),
        ("groups: [{name: a, rules: [{alert: X, expr: up, labels: {'a-b': c}}]}]", "cannot name a label"),
        ("groups: [{name: a, rules: [{alert: X, expr: up, annotations: {a: '{{ .Secret }}'}}]}]", "is not served"),
        ("groups: [{name: a, extra: 1}]", "has no 'extra'"),
        ("groups: [{name: a}, {name: a}]", "comes twice"),
        ("groups: [{name: a, interval: 10ms}]", "at least 1s"),
        ("groups: [&x {name: a}, *x]", "line 1: aliases"),
        ("groups: {", "it is no YAML"),
        ("[1]", "not a mapping"),
        ("groups: 3", "not a list"),
        ("x" * (2 << 20), "longer than"),
        ("!!python/object:os.system {}", "no YAML"),
        ("{" * 5000, "nests deeper"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        read("f", text)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ $labels.job }} has {{ $value }}", "api has 1234.5"),
        ("{{$value|humanize}}, {{ $value | humanizeDuration }}", "1.234k, 20m 34s"),
        ('{{ printf "%.2f" $value }} {{ $value | printf "%.0f" }}%', "1234.50 1234%"),
        ("{{ $labels.gone }}.{{ $labels.size | humanize1024 }}", ".2Mi"),
        ("{{ $labels.job | humanize }}", "api"),
        ("plain %s {}", "plain %s {}"),
    ],
)
def test_templates(template: str, shown: str) -> None:
    labels = {"job": "api", "size": str(2 << 20)}
    assert compile_template(template, "x").render(labels, 1234.5) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0012, "1.2m"), (1.5, "1.5"), (1e9, "1G"), (float("inf"), "+Inf"), (-2500, "-2.5k")],
)
def test_humanized_numbers(value: float, shown: str) -> None:
    assert compile_template("{{ $value | humanize }}", "x").render({}, value) == shown


@pytest.mark.parametrize(
    "template",
    [
        "{{ range query }}",
        "{{ $value | evil }}",
        '{{ printf "%d%d" $value }}',
        '{{ printf "%999999f" $value }}',
        "{{ $labels.a",
        "x" * 5000,
    ],
)
def test_bad_templates_are_refused(template: str) -> None:
    with pytest.raises(InvalidError, match=r"^here: "):
        compile_template(template, "here")


def test_a_rendered_text_is_bounded() -> None:
    template = compile_template("{{ $labels.a }}" * 100, "x")
    assert len(template.render({"a": "y" * 1000}, 0)) == 4096


@pytest.mark.parametrize(
    ("text", "total"), [("0", 0), (0, 0), ("5m", 300), ("1h30m", 5400), ("1d12h", 129_600), ("250ms", 0.25)]
)
def test_durations(text: object, total: float) -> None:
    assert durations.seconds(text, "x") == total


@pytest.mark.parametrize("text", ["", "5", "m", "5m1h", "-5m", True, None, "1" * 80 + "s", "99y"])
def test_bad_durations(text: object) -> None:
    with pytest.raises(InvalidError, match=r"^x: "):
        durations.seconds(text, "x")
