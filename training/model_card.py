"""The model card of a bundle, Markdown from its manifest alone: data, protocol, figures, slices, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_SHOWN: Final = ("hr@10", "recall@20", "ndcg@10", "map", "mrr", "coverage@20", "gini@20")
MUCH: Final = 0.25  # a stability index that is worth a word


def model_card(manifest: Mapping[str, Any]) -> str:
    """What is not in the manifest is left out, or said to be unknown."""
    evaluation = manifest.get("evaluation", {})
    lines = [f"# Model card: bundle {manifest.get('version', '(draft)')}", ""]
    for title, part in (
        ("What it is", _about(manifest)),
        ("Data", _data(manifest)),
        ("How it was measured", _protocol(evaluation)),
        ("Figures on later data", _figures(evaluation)),
        ("Slices", _slices(evaluation)),
        ("Groups of customers", _groups(evaluation)),
        ("Exposure and drift", _exposure(evaluation)),
        ("The gate", _gate(manifest)),
        ("Limits", _limits(manifest)),
    ):
        said = list(part)
        lines += [f"## {title}", "", *(said or ["Not recorded."]), ""]
    return "\n".join(lines)


def _about(manifest: Mapping[str, Any]) -> Iterator[str]:
    model = manifest.get("model", {})
    if model:
        params = ", ".join(f"{name} {_number(value)}" for name, value in model.get("params", {}).items())
        yield f"Ranks items for customers of an app by **{model.get('name')}** ({params})."
    yield (
        "It proposes and scores; whether an item may be shown is decided by the rules of the catalogue, the "
        "customer and the plan, never by the model."
    )
    libraries = manifest.get("libraries", {})
    if libraries:
        yield ""
        yield f"Seed {manifest.get('seed')}, " + ", ".join(f"{n} {v}" for n, v in libraries.items()) + "."


def _data(manifest: Mapping[str, Any]) -> Iterator[str]:
    data, window = manifest.get("data", {}), manifest.get("config", {}).get("window_days")
    for name in ("customers", "items", "events", "positives"):
        if name in data:
            yield f"- {name}: {data[name]:,}"
    if data.get("left_out"):
        yield "- left out: " + ", ".join(f"{count:,} {why}" for why, count in data["left_out"].items())
    if "trained_until_utc" in manifest:
        span = "all events" if window is None else f"{window:g} days"
        yield f"- window: {span} up to {manifest['trained_until_utc']}"


def _protocol(evaluation: Mapping[str, Any]) -> Iterator[str]:
    if not evaluation:
        return
    yield (
        f"Full ranking of {evaluation['items']:,} items for {evaluation['customers']:,} customers on events "
        f"later than all it learned from ({evaluation['learned_from']}); items already liked: "
        f"{evaluation['already_liked_items']}; history: {evaluation['history']}."
    )
    yield ""
    yield "Split: " + "; ".join(f"{name}: {value}" for name, value in evaluation["split"].items()) + "."
    yield "Recall divides by all held-out items. Intervals: 95 %, bootstrap over customers."


def _figures(evaluation: Mapping[str, Any]) -> Iterator[str]:
    models = evaluation.get("models", {})
    if not models:
        return
    yield "| metric | " + " | ".join(models) + " |"
    yield "|---|" + "---|" * len(models)
    for metric in _SHOWN:
        if all(metric in one["metrics"] for one in models.values()):
            yield f"| {metric} | " + " | ".join(_with_interval(one, metric) for one in models.values()) + " |"


def _with_interval(one: Mapping[str, Any], metric: str) -> str:
    spread = one["intervals"].get(metric)
    return f"{one['metrics'][metric]:.4f}" + (f" [{spread[0]:.4f}, {spread[1]:.4f}]" if spread else "")


def _slices(evaluation: Mapping[str, Any]) -> Iterator[str]:
    metric, chosen = evaluation.get("metric"), evaluation.get("chosen")
    rows: list[tuple[str, int, float, float, str]] = []
    for label, one in evaluation.get("groups", {}).items():
        mine, other = (one["models"][name].get(metric) for name in (chosen, "popular"))
        rows.append((label, one["customers"], mine, other, ""))
    for label, one in evaluation.get("watched", {}).get("slices", {}).items():
        rows.append((label, one["customers"], one["candidate"], one["popular"], _gap(one["difference"])))
    if rows:
        yield f"| customers | number | {metric} | popularity | difference |"
        yield "|---|---|---|---|---|"
        for label, count, mine, other, gap in rows:
            yield f"| {label} | {count:,} | {mine:.4f} | {other:.4f} | {gap} |"


def _gap(gap: Sequence[float]) -> str:
    return f"{gap[0]:+.4f} [{gap[1]:+.4f}, {gap[2]:+.4f}]"


def _groups(evaluation: Mapping[str, Any]) -> Iterator[str]:
    groups = evaluation.get("watched", {}).get("groups", {})
    if groups:
        yield "The metric of a group over everybody's (1 = as good):"
        yield ""
        yield "| field | group | customers | ratio |"
        yield "|---|---|---|---|"
        for field, ones in groups.items():
            for name, one in ones.items():
                low, high = one["interval"]
                ratio = f"{one['ratio']:.2f} [{low:.2f}, {high:.2f}]"
                yield f"| {field} | {name} | {one['customers']:,} | {ratio} |"


def _exposure(evaluation: Mapping[str, Any]) -> Iterator[str]:
    found = evaluation.get("watched", {})
    exposure = found.get("exposure", {})
    if exposure:
        yield (
            f"A hundredth of the items takes {exposure['top_share']:.0%} of the first 20 places (Gini "
            f"{exposure['gini']:.3f}); {exposure['coverage']:.0%} of the items are shown to somebody."
        )
    for name, index in found.get("drift", {}).items():
        yield f"- drift of {name} against the bundle before: {index:.3f}" + (
            " (much)" if index > MUCH else ""
        )


def _gate(manifest: Mapping[str, Any]) -> Iterator[str]:
    gate = manifest.get("gate")
    if gate is None:
        return
    yield (
        "Passed."
        if gate.get("passed")
        else "Promoted by force, against:"
        if gate.get("forced")
        else "Refused:"
    )
    for one in gate.get("refusals", ()):
        yield f"- {one['code']}: {one['text']}"


def _limits(manifest: Mapping[str, Any]) -> Iterator[str]:
    evaluation = manifest.get("evaluation", {})
    yield "- Offline figures reward what was shown before; an experiment decides what a change is worth."
    yield "- Customers and tastes after the window are not known to it: retrain on schedule."
    few = [name for name, one in evaluation.get("groups", {}).items() if one["customers"] < 100]
    if few:
        yield f"- Too few customers to say much: {', '.join(few)}."
    if not evaluation.get("watched", {}).get("groups"):
        yield "- Age band, gender and city tier are not known of enough customers: fairness was not measured."
    if manifest.get("uplift") is None:
        yield "- What benefits add was not measured; the declared share is used."


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
