from typing_extensions import disjoint_base

@disjoint_base
class Groups:
    def path_of(self, number: int) -> str: ...
