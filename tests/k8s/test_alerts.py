"""Each alert has a unit test and a runbook, and names only what the product, Ray or the cluster exports.

The rules run on series that set them off and on series that must not: by our own evaluator of what they use
of PromQL, and by promtool (Debian: prometheus) where it is, which the test says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import promql
from tests.k8s.exported import exported
from tests.k8s.manifests import K8S

RULES: list[dict[str, Any]] = yaml.safe_load((K8S / "components/monitoring/alerts.yaml").read_text())["spec"][
    "groups"
][0]["rules"]
OTHERS = {  # exported by Ray's HAProxyManager, kube-state-metrics and the kubelet
    "ray_serve_haproxy_process_count": set(),
    "kube_job_status_failed": {"namespace", "job_name"},
    "kubelet_volume_stats_used_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
}
WORDS = {
    "sum", "rate", "increase", "max", "min", "by", "count", "absent", "histogram_quantile", "scalar", "le",
    "unless", "offset",
}  # fmt: skip

# alert: series that set it off, series that do not; each (metric with labels, promtool's notation of values)
Series = dict[str, str]
REQUESTS = 'fenliu_requests_total{route="/v1/recommend",status="%s"}'
PAGES = 'fenliu_decisions_total{effort="full"}'
ASKED = 'fenliu_places_total{what="asked"}'
FILLED = 'fenliu_places_total{what="filled"}'
MISSING = 'fenliu_degraded_total{cause="features"}'
KNOWN = 'fenliu_feature_known_total{field="%s"}'
LOOKED = 'fenliu_feature_looked_total{field="%s"}'
DRIFT = 'fenliu_score_drift{pod="%s",surface="%s"}'
LEARNED = 'fenliu_bundle_age_seconds{pod="%s"}'
MEMORY = 'fenliu_store_memory_ratio{role="%s"}'
CASES: dict[str, tuple[Series, Series]] = {
    "FenliuErrors": (
        {REQUESTS % 200: "0+100x60", REQUESTS % 500: "0+1x60"},
        {REQUESTS % 200: "0+100x60", REQUESTS % 503: "0+9x60", REQUESTS % 500: "0x60"},
    ),
    "FenliuShedding": (
        {REQUESTS % 200: "0+100x60", "fenliu_shed_total": "0+5x60"},
        {REQUESTS % 200: "0+1000x60", "fenliu_shed_total": "0+5x60"},
    ),
    "FenliuSlow": (
        {'fenliu_request_seconds_bucket{route="/v1/recommend",le="0.1"}': "0+90x60",
         'fenliu_request_seconds_bucket{route="/v1/recommend",le="0.5"}': "0+100x60",
         'fenliu_request_seconds_bucket{route="/v1/recommend",le="+Inf"}': "0+100x60"},
        {'fenliu_request_seconds_bucket{route="/v1/recommend",le="0.05"}': "0+100x60",
         'fenliu_request_seconds_bucket{route="/v1/recommend",le="+Inf"}': "0+100x60"},
    ),
    "FenliuUnderfilled": (
        {ASKED: "0+1000x60", FILLED: "0+990x60"},
        {ASKED: "0+1000x60", FILLED: "0+1000x60"},
    ),
    "FenliuDegraded": (
        {MISSING: "0+5x60", PAGES: "0+100x60"},
        {MISSING: "0+1x60", PAGES: "0+900x60"},
    ),
    "FenliuStoreErrors": (
        {'fenliu_store_errors_total{what="ledger"}': "0+90x60"},
        {'fenliu_store_errors_total{what="ledger"}': "0+6x60"},
    ),
    "FenliuControlOld": ({"fenliu_control_age_seconds": "0+60x60"}, {"fenliu_control_age_seconds": "1x60"}),
    "FenliuLedgerRefuses": (
        {'fenliu_ledger_total{result="epoch"}': "0+1x60"},
        {'fenliu_ledger_total{result="taken"}': "0+50x60", 'fenliu_ledger_total{result="epoch"}': "0x60"},
    ),
    "FenliuFeaturesOld": (
        {'fenliu_features_age_seconds{view="profile"}': "140000+60x60"},
        {'fenliu_features_age_seconds{view="profile"}': "80000+60x60"},
    ),
    "FenliuScoreDrift": (
        {DRIFT % ("a", "home"): "0.3x100", DRIFT % ("b", "home"): "0.4x100", DRIFT % ("a", "feed"): "0x100"},
        {DRIFT % ("a", "home"): "0.3x100", DRIFT % ("b", "home"): "0.1x100", DRIFT % ("a", "x"): "0.2x100"},
    ),
    "FenliuPricesOld": (
        {'fenliu_prices_age_seconds{pod="a"}': "70+60x60"},
        {'fenliu_prices_age_seconds{pod="a"}': "2x60", 'fenliu_prices_age_seconds{pod="b"}': "90x60"},
    ),
    "FenliuNobodyPaces": (
        {'fenliu_pacer_leads{pod="a"}': "0x60", 'fenliu_pacer_leads{pod="b"}': "0x60"},
        {'fenliu_pacer_leads{pod="a"}': "0x60", 'fenliu_pacer_leads{pod="b"}': "1x60"},
    ),
    "FenliuSwapRefused": (
        {'fenliu_swaps_total{result="refused"}': "_x25 1x35"},
        {'fenliu_swaps_total{result="refused"}': "1x60", 'fenliu_swaps_total{result="done"}': "0+1x60"},
    ),
    "FenliuReplicasDisagree": (
        {'fenliu_running_info{pod="a",bundle="b1",plan="p"}': "1x60",
         'fenliu_running_info{pod="b",bundle="b2",plan="p"}': "1x60"},
        {'fenliu_running_info{pod="a",bundle="b1",plan="p"}': "1x60",
         'fenliu_running_info{pod="b",bundle="b1",plan="p"}': "1x60"},
    ),
    "FenliuIngestLate": (
        {'fenliu_log_oldest_seconds{pod="a"}': "0+60x60"},
        {'fenliu_log_oldest_seconds{pod="a"}': "200x20 0+60x16 0x22"},
    ),
    "FenliuStoreMemory": (
        {MEMORY % "log": "0.5+0.02x60", MEMORY % "live": "0.2x60"},
        {MEMORY % "log": "0.8x60", MEMORY % "live": "0.84x60"},
    ),
    "FenliuServedLost": ({"fenliu_served_dropped_total": "0+1x60"}, {"fenliu_served_dropped_total": "7x60"}),
    "FenliuSpoolWaits": (
        {'fenliu_spool_lag_seconds{pod="a"}': "0+30x60"},
        {'fenliu_spool_lag_seconds{pod="a"}': "20x60"},
    ),
    "FenliuSpoolFull": (
        {"fenliu_spool_bytes": "250x60", "fenliu_spool_most_bytes": "256x60"},
        {"fenliu_spool_bytes": "100x60", "fenliu_spool_most_bytes": "256x60",
         "fenliu_spool_refused_total": "7x60", "fenliu_spool_dropped_total": "7x60"},
    ),
    "FenliuSpoolDamaged": (
        {'fenliu_spool_damaged_bytes{pod="a"}': "40x60"},
        {'fenliu_spool_damaged_bytes{pod="a"}': "0x60"},
    ),
    "FenliuFailures": (
        {'fenliu_failures_total{where="publisher"}': "_x25 1x35"},
        {'fenliu_failures_total{where="publisher"}': "1x60"},
    ),
    "FenliuGoalsLate": (
        {'fenliu_goals_late{cause="audience"}': "2x90"},
        {'fenliu_goals_late{cause="audience"}': "0x90"},
    ),
    "FenliuBundleOld": (
        {LEARNED % "a": "604000+60x90", LEARNED % "b": "604000+60x90"},
        {LEARNED % "a": "700000+60x90", LEARNED % "b": "80000+60x90"},
    ),
    "FenliuFeatureNulls": (
        {LOOKED % "assets": "0+60x1600", KNOWN % "assets": "0+54x1440 77760+12x160"},
        # as rarely known as yesterday; hardly ever known, so that an hour says nothing; nobody looked
        {LOOKED % "assets": "0+60x1600", KNOWN % "assets": "0+9x1600",
         LOOKED % "gender": "0+60x1600", KNOWN % "gender": "0+1x1440 1440x160",
         LOOKED % "age": "0+60x1440 86400x160", KNOWN % "age": "0+54x1440 77760x160"},
    ),
    "FenliuLimitsAlone": (
        {'fenliu_limits_total{what="alone"}': "0+10x60"},
        {'fenliu_limits_total{what="rate"}': "0+10x60", 'fenliu_limits_total{what="alone"}': "3x60"},
    ),
    "FenliuNoReplica": ({}, {'fenliu_running_info{bundle="b",plan="p"}': "1x60"}),
    "FenliuJobFailed": (
        {'kube_job_status_failed{namespace="fenliu",job_name="fenliu-ingest-1"}': "1x60"},
        {'kube_job_status_failed{namespace="fenliu",job_name="fenliu-ingest-1"}': "0x60"},
    ),
    "FenliuVolumeFull": (
        {'kubelet_volume_stats_used_bytes{namespace="fenliu",persistentvolumeclaim="d"}': "90x60",
         'kubelet_volume_stats_capacity_bytes{namespace="fenliu",persistentvolumeclaim="d"}': "100x60"},
        {'kubelet_volume_stats_used_bytes{namespace="fenliu",persistentvolumeclaim="d"}': "60x60",
         'kubelet_volume_stats_capacity_bytes{namespace="fenliu",persistentvolumeclaim="d"}': "100x60"},
    ),
    "FenliuHaproxyPilesUp": (
        {"ray_serve_haproxy_process_count": "5x60"},
        {"ray_serve_haproxy_process_count": "2x60"},
    ),
}  # fmt: skip
BY_NAME = {rule["alert"]: rule for rule in RULES}


EXPORTED = {**exported(), **OTHERS}


def test_each_alert_has_a_test_a_runbook_and_a_severity() -> None:
    runbooks = (K8S / "runbooks.md").read_text()
    headings = {line[3:] for line in runbooks.splitlines() if line.startswith("## ")}
    assert BY_NAME.keys() == CASES.keys() == headings & {h for h in headings if h.startswith("Fenliu")}
    for name, rule in BY_NAME.items():
        assert rule["annotations"]["runbook"] == f"k8s/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize("alert", BY_NAME)
def test_an_alert_reads_what_is_exported(alert: str) -> None:
    assert unknown(BY_NAME[alert]["expr"]) == []


def test_a_metric_or_a_label_that_nobody_exports_is_found() -> None:
    assert unknown("rate(fenliu_request_total[5m])") == ["fenliu_request_total"]
    assert unknown('rate(fenliu_requests_total{code="5"}[5m])') == ["fenliu_requests_total: code"]


def unknown(expression: str) -> list[str]:
    found = []
    bare = re.sub(r"\b(by) \([^)]*\)|\[[^\]]*\]", " ", expression)
    for name, selector in re.findall(r"([a-z_]{4,})(\{[^}]*\})?", re.sub(r'"[^"]*"', '""', bare)):
        if name in WORDS or not re.search(rf"(?<![a-z_{{,]){name}(?![a-z_]*\s*[=!])", bare):
            continue
        if name not in EXPORTED:
            found.append(name)
            continue
        labels = re.findall(r"([a-z_]+)\s*[=!]", selector)
        found += [f"{name}: {label}" for label in labels if label not in EXPORTED[name]]
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_case_sets_series_that_its_rule_reads(case: str) -> None:
    """So that a test which needs promtool cannot rot where there is none."""
    for series in CASES[case]:
        for name in series:
            assert name.partition("{")[0] in BY_NAME[case]["expr"]


MINUTES = {"FenliuGoalsLate": 75, "FenliuBundleOld": 80, "FenliuFeatureNulls": 1590, "FenliuScoreDrift": 90}


def told(alert: str, expression: str) -> list[bool]:
    """Whether an expression fires on the series that set the alert off, and on those that must not."""
    held = str(BY_NAME[alert].get("for", "0m"))
    at_s = MINUTES.get(alert, 30) * 60
    return [
        promql.fires(expression, int(held[:-1]) * promql.UNITS[held[-1]], one, at_s) for one in CASES[alert]
    ]


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_is_silent_else(alert: str) -> None:
    assert told(alert, BY_NAME[alert]["expr"]) == [True, False]


TURNED = {"> ": "< ", "< ": "> ", "!= ": "== ", "absent(": "count("}


@pytest.mark.parametrize("alert", CASES)
def test_a_rule_that_is_turned_round_is_found(alert: str) -> None:
    expression = re.sub("|".join(map(re.escape, TURNED)), lambda one: TURNED[one[0]], BY_NAME[alert]["expr"])
    assert expression != BY_NAME[alert]["expr"] and told(alert, expression) != [True, False]


@pytest.mark.parametrize(
    ("expression", "series", "expected"),
    [
        ("sum(rate(a[5m]))", {"a": "0+60x60"}, 1.0),
        ("sum(increase(a[5m]))", {'a{p="1"}': "0+1x60", 'a{p="2"}': "0+2x60"}, 15.0),
        ("sum(increase(a[5m]))", {"a": "10x26 0+1x60"}, 3.0),  # a counter that began again
        ('max by (p) (a{p!="2"})', {'a{p="1"}': "3x60", 'a{p="2"}': "9x60"}, 3.0),
        ("histogram_quantile(0.5, sum by (le) (a))", {'a{le="1"}': "0x60", 'a{le="3"}': "8x60",
                                                      'a{le="+Inf"}': "8x60"}, 2.0),
        ("absent(a)", {"b": "1x60"}, 1.0),
        ("sum(a) / scalar(sum(b))", {"a": "3x60", "b": "4x60"}, 0.75),
        ("sum(rate(a[10m] offset 15m))", {"a": "0+60x15 900x45"}, 1.0),
        ("sum(a unless a offset 15m)", {'a{p="1"}': "5x60", 'a{p="2"}': "_x25 7x60"}, 7.0),
    ],
)  # fmt: skip
def test_the_evaluator_computes_what_prometheus_does(
    expression: str, series: dict[str, str], expected: float
) -> None:
    (value,) = promql.Reader(expression, promql.series_of(series)).whole()(1800.0).values()
    assert value == pytest.approx(expected)


def test_more_of_the_language_is_refused() -> None:
    for expression in ("avg(a)", "sum(a) > sum(b) bool", "a[5m]", "sum(a)) > 1", "topk(3, a)"):
        with pytest.raises((promql.NotKnown, IndexError)):
            promql.Reader(expression, []).whole()(0.0)


def test_the_rules_by_promtool(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH (Debian: prometheus): the rules are not run on series")
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "fenliu", "rules": RULES}]}))
    tests = []
    for alert, cases in CASES.items():
        for series, fires in zip(cases, (True, False), strict=True):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [],
                    "alert_rule_test": [],
                    "name": f"{alert} {'fires' if fires else 'is silent'}",
                }
            )
            count = {"expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0'}
            at = f"{MINUTES.get(alert, 30)}m"
            samples = [{"labels": "{}", "value": 1}] if fires else []
            tests[-1]["promql_expr_test"] = [count | {"eval_time": at, "exp_samples": samples}]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
