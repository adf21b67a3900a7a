import pytest

from vae_lab.registry import Registry, UnknownName


def test_lookup_and_error() -> None:
    registry: Registry[int] = Registry({"one": 1, "two": 2}, kind="number")
    assert registry["one"] == 1
    with pytest.raises(UnknownName) as caught:
        registry["tow"]
    assert str(caught.value) == "unknown number 'tow'; did you mean 'two'? Known: one, two"
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)


def test_an_empty_registry_and_a_name_that_is_no_string() -> None:
    with pytest.raises(UnknownName, match="unknown thing 3"):
        Registry(kind="thing")[3]  # type: ignore[index]
