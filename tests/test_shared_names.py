"""Names of actors that several processes ask for at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import spoke as ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=4)
    yield
    ray.shutdown()


def test_creators_that_race_for_a_name_share_one_actor() -> None:
    @ray.remote(num_cpus=0)
    class Shared:
        def __init__(self) -> None:
            self.users: list[int] = []

        def use(self, user: int) -> int:
            self.users.append(user)
            return len(self.users)

    @ray.remote(num_cpus=0)
    def user(number: int) -> int:
        options = {"name": "raced-for", "get_if_exists": True, "lifetime": "detached"}
        return int(ray.get(Shared.options(**options).remote().use.remote(number), timeout=60))

    for _ in range(3):
        assert sorted(ray.get([user.remote(number) for number in range(6)])) == [1, 2, 3, 4, 5, 6]
        ray.kill(ray.get_actor("raced-for"))
