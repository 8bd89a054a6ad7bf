"""The bundles that arms of experiments are served from beside the one that runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.bundle import Bundle, BundleError
from serving.experiment_checks import arm_bundles
from serving.plan_error import PlanError

if TYPE_CHECKING:
    from features.schema import Schemas
    from serving.plan_text import Plan

LoadBundle = Callable[[str], Bundle]
"""By version, verified. Raises BundleError, RegistryError (both are ValueErrors), OSError or KeyError."""


def unknown(version: str) -> Bundle:
    """Where no other bundle can be asked for. Raises BundleError."""
    raise BundleError(version, "no registry is asked here", "build the view with the registry's bundles")


def only(bundle: Bundle) -> LoadBundle:
    """For judging one bundle: arms that would be served from another one are decided by it, too."""
    return lambda _version: bundle


def bundle_of_arm(plan: Plan, version: str, running: Bundle, load: LoadBundle) -> Bundle:
    """A bundle that an arm of the plan names. Raises PlanError with the arm's path.

    Records of customers are read by the running bundle's schemas, once for all arms: an arm's bundle must
    know the same.
    """
    assert plan.experiments is not None
    path = arm_bundles(plan.experiments)[version]
    try:
        bundle = load(version)
    except (ValueError, OSError, KeyError) as gone:
        remedy = "publish the bundle, name another, or switch the arm off"
        raise PlanError(path, f"bundle {version} cannot be loaded ({gone})", remedy) from gone
    if _views(bundle.schemas) != _views(running.schemas):
        problem = f"bundle {version} knows other records of customers than {running.version}, which runs"
        raise PlanError(path, problem, "train it again with the version of Fenliu that trained the other")
    return bundle


def _views(schemas: Schemas) -> set[tuple[str, int]]:
    return {(view.name, view.fingerprint) for view in schemas}
