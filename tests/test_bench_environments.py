"""The figures of runtime environments are taken and printed."""

from __future__ import annotations

import pytest

from spoke.bench import environments


@pytest.mark.timeout_s(300)
def test_the_second_worker_is_faster_and_both_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert environments.main() == 0
    words = capsys.readouterr().out.split()
    first, later = float(words[words.index("ms,") - 1]), float(words[words.index("ms:") - 1])
    assert first > later > 0
    assert "times faster (target 20:" in " ".join(words)
