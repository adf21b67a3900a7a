import subprocess
import sys

import vae_lab


def test_the_top_level_names_are_the_promised_ones() -> None:
    names = (
        "DiagonalNormal ESTIMATORS NOISES NotApplicable VAE benchmark elbo estimator evaluate exact_gradient "
        "fit load noise reparameterize"
    )
    assert sorted(vae_lab.__all__) == sorted(names.split())
    for name in vae_lab.__all__:
        assert getattr(vae_lab, name).__module__.startswith("vae_lab") or name.isupper()
    for name in ("noise", "benchmark"):  # functions, not the modules of the same name
        assert getattr(vae_lab, name).__name__ == name and callable(getattr(vae_lab, name))


def told(code: str) -> list[str]:
    """The words that `code` prints in a process of its own."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_import_loads_no_plots_no_data_and_no_notebook_packages() -> None:
    heavy = {"matplotlib", "sklearn", "mlxtend", "pydantic", "IPython", "networkx", "scipy.stats"}
    assert not heavy & set(told("import sys; from vae_lab import *; print(*sys.modules)"))


def test_command_line_does_not_wait_for_torch() -> None:
    assert not {"torch", "pandas"} & set(told("import sys, vae_lab.cli; print(*sys.modules)"))


def test_functions_are_found_though_their_modules_were_loaded_first() -> None:
    code = "import vae_lab.noise, vae_lab.benchmark; from vae_lab import noise, benchmark as b; "
    assert told(f"{code}print(type(noise).__name__, type(b).__name__)") == ["function", "function"]


def test_all_estimators_are_registered_however_the_first_is_found() -> None:
    ways = "vae_lab.estimators", "vae_lab"
    first, second = (told(f"from {way} import ESTIMATORS; print(*sorted(ESTIMATORS))") for way in ways)
    assert first == second and {"pathwise", "antithetic", "disarm"} <= set(first)
