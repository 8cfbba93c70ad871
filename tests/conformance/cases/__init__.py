"""One module per area; every public function of a module whose first parameter is ``ray`` is a case."""
