"""``lmbench quantize``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.flags import configured, refuse_flags
from lmbench.cli.output import Json, SessionName, console, presets_table, print_json
from lmbench.cli.start_run import Detach, PlaceName, RunName, Seeds, derive, derive_all
from lmbench.config import QuantizeConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home

__all__ = ["quantize"]


@configured(QuantizeConfig)
def quantize(
    config: QuantizeConfig,
    run: str = "@",
    /,
    *,
    list_presets: Annotated[bool, Parameter(negative="", help="show the presets and stop")] = False,
    name: RunName = None,
    seeds: Seeds = None,
    place: PlaceName = "local",
    session: SessionName = "default",
    detach: Detach = False,
    json: Json = False,
) -> int:
    """Quantize a trained or pruned run: calibrate, quantize, score on valid and test.

    Without --preset and --config the preset int8-best holds; single flags change it, and
    --override changes it for some modules.

    Args:
        run: the run to quantize (SESSION/3, 3, @, a path).
    """
    if list_presets:
        given = dict.fromkeys(sorted(config.model_fields_set), True)
        refuse_flags("does nothing beside --list-presets", **given, name=name, detach=detach,
                     seeds=seeds, place=place != "local")  # fmt: skip
        _show_presets(json=json)
        return 0
    from lmbench.distiller.quantization.calibration import load_stats
    from lmbench.distiller.quantization.errors import QuantizationError
    from lmbench.jobs.input_files import settings_file, stats_file
    from lmbench.jobs.places import check_place
    from lmbench.jobs.prepare import refuse_packed
    from lmbench.jobs.quantization import check_fit, describe, settings_of
    from lmbench.report.quantized_modules import quantized_modules

    parent = Home.find().find_run(run, session, with_model=True)
    refuse_packed(parent)
    # A run that is named by its path may be of another working folder.
    home = parent.home
    check_place(place, home)
    settings = settings_of(config, settings_file(config.config, home) if config.config else None)
    try:
        stats = load_stats(stats_file(config.stats, home)) if config.stats else None
    except QuantizationError as error:
        raise LmbenchError(str(error)) from None
    record = parent.read()
    if record.kind == "quantize":
        raise LmbenchError(
            f"run {parent.ref} is quantized already: name the run that it was made from"
        )
    if record.shape:
        check_fit(settings, stats, record.shape)
    name = name or describe(config)
    if seeds is not None:
        return derive_all(
            parent, "quantize", config, seeds, name=name, detach=detach, json=json, place=place
        )
    made, code = derive(
        parent, "quantize", config, name=name, detach=detach, json=json, place=place
    )
    if not (code or detach or json) and made.status() == "finished":
        console().print(quantized_modules(made).to_rich())
    return code


def _show_presets(*, json: bool) -> None:
    from lmbench.distiller.quantization.settings_files import (
        load_preset,
        preset_description,
        preset_names,
    )

    if json:
        print_json([{"name": n, **load_preset(n).to_dict()} for n in preset_names()])
        return
    console().print(presets_table((name, preset_description(name)) for name in preset_names()))
