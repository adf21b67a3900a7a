"""What `vae_lab` offers, what its import costs, and the shape of its files."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import vae_lab

ROOT = Path(__file__).resolve().parent.parent


def test_the_top_level_names_are_the_promised_ones() -> None:
    names = (
        "DiagonalNormal ESTIMATORS Family NOISES NotApplicable VAE benchmark elbo estimator evaluate "
        "exact_gradient fit load noise reparameterize"
    )
    assert sorted(vae_lab.__all__) == sorted(names.split())
    for name in vae_lab.__all__:
        assert getattr(vae_lab, name).__module__.startswith("vae_lab") or name.isupper()
    for name in ("noise", "benchmark"):  # functions, not the modules of the same name
        assert getattr(vae_lab, name).__name__ == name and callable(getattr(vae_lab, name))


def printed(code: str) -> list[str]:
    """The words that `code` prints in a process of its own."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_import_loads_no_plots_no_data_and_no_notebook_packages() -> None:
    heavy = {"matplotlib", "seaborn", "sklearn", "mlxtend", "IPython", "networkx", "scipy.stats"}
    assert not heavy & set(printed("import sys; from vae_lab import *; print(*sys.modules)"))


def test_what_runs_notebooks_does_not_wait_for_torch() -> None:
    code = "import sys, vae_workflow.cli, vae_workflow.jobs, vae_workflow.pages; print(*sys.modules)"
    assert not {"torch", "pandas"} & set(printed(code))


def test_every_module_is_a_module_and_every_name_what_it_promises() -> None:
    """However it is imported first: no function hides a module of its name."""
    modules = [module.name for module in pkgutil.walk_packages(vae_lab.__path__, "vae_lab.")]
    assert {"vae_lab.vae.noise", "vae_lab.estimators.score", "vae_lab.records"} <= set(modules)
    for first, second in (("", "from vae_lab import *"), ("from vae_lab import *", "")):
        imports = "".join(f"import {name} as m{i};" for i, name in enumerate(modules))
        code = f"{first}\n{imports}\n{second}\nfrom vae_lab import *\n"
        code += f"print(*(type(m).__name__ for m in ({', '.join(f'm{i}' for i in range(len(modules)))})))"
        assert set(printed(code)) == {"module"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vae_lab.nothing  # noqa: B018
    assert set(vae_lab.__all__) <= set(dir(vae_lab))


@pytest.mark.parametrize("package", ["vae_lab", "vae_workflow"])
def test_functions_and_modules_are_of_a_size_that_can_be_read_and_have_different_names(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        source = path.read_text("utf-8")
        assert len(source.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
                assert node.name != path.stem, f"{path}: a name is that of a module or of a function"


def test_all_estimators_are_registered_however_the_first_is_found() -> None:
    ways = "vae_lab.estimators", "vae_lab", "vae_lab.estimators.contract"
    found = [printed(f"from {way} import ESTIMATORS; print(*sorted(ESTIMATORS))") for way in ways]
    assert found[0] == found[1] == found[2]
    assert {"pathwise", "antithetic", "disarm"} <= set(found[0])
