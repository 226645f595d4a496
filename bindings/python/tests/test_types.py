import dataclasses
import math
from datetime import datetime, timedelta, timezone
from typing import Any, List, Optional, Tuple

import pytest

import dwcp
from dwcp import ConfigError, Duration, VMState, _wire, config, model


def test_durations() -> None:
    known: List[Tuple[Optional[Duration], Optional[str]]] = [
        (1.5, "1500000000ns"),
        (0, "0ns"),
        (timedelta(milliseconds=500), "500000000ns"),
        ("5m", "5m"),
        (None, None),
    ]
    for value, text in known:
        assert _wire.duration(value, "timeout") == text
    for wrong in [-1, math.nan, math.inf, 1e30, True, b"1s", [1]]:
        with pytest.raises(ConfigError, match="timeout"):
            _wire.duration(wrong, "timeout")  # type: ignore[arg-type]


def test_words_are_text() -> None:
    text: str = VMState.RUNNING
    assert text == "running"
    assert f"{VMState.RUNNING} {VMState.RUNNING:>8} {VMState.RUNNING!s}" == "running  running running"
    assert VMState("paused") is VMState.PAUSED


def test_values_as_plain_data() -> None:
    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    vm = dwcp.VM(id="1", state=VMState.PAUSED, created_at=when)
    plain = dwcp.to_dict(vm)
    assert plain["state"] == "paused" and type(plain["state"]) is str
    assert plain["created_at"] == "2026-01-02T00:00:00.000000+00:00"
    assert plain["config"]["memory"] == 2 * 1024**3
    assert "started_at" not in plain


def test_every_field_that_is_a_time_or_a_word_is_made_so() -> None:
    kinds = {kind: dict(_wire._kinds(kind)) for kind in _wire._CLASSES}
    assert kinds[model.VM]["started_at"] is _wire._parse_time
    assert kinds[model.VM]["addresses"] is list
    made: Any = kinds[model.VM]["state"]
    words, other = made
    assert words["running"] is VMState.RUNNING and other is VMState.UNKNOWN
    assert isinstance(kinds[config.NetworkConfig]["mode"], tuple)
    for kind, fields in kinds.items():
        for field in dataclasses.fields(kind):
            if "datetime" in str(field.type):
                assert fields[field.name] is _wire._parse_time, (kind, field.name)


def test_version() -> None:
    from conftest import ROOT

    assert f'\nversion = "{dwcp.__version__}"\n' in (ROOT / "Cargo.toml").read_text()


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(dwcp.ClientConfig(api_key="secret"))
    assert "secret" not in repr(dwcp.APIKey(key="secret", role="admin"))
