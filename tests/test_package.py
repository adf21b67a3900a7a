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


def test_import_loads_no_plots_no_data_and_no_notebook_packages() -> None:
    code = "import sys, vae_lab; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"matplotlib", "sklearn", "mlxtend", "pydantic", "IPython", "networkx", "scipy.stats"}
    assert not heavy & set(run.stdout.split())
