"""Contract tests for anybody's task, basis or method: what the protocols promise, measured.

1. `find` turns what the user names into objects; `check.check` is the door.
2. A check (`finding.Check`) measures one property on a stage: a model, prompts, and the thing. It gives the measured
   value, its bound, and whether it holds; an exception is a failure too.
3. A basis is checked by what it says of itself (`basis_claims`), as two functions (`basis_functions`), in its optional
   promises (`basis_promises`) and inside the model (`basis_circuits`). `method` and `task` check these; `left_behind`
   holds that the model is as it was.

These tests find mistakes, not fraud: code can act otherwise where it is checked. Records are compared with a second
run for that (`basisbench verify`).
"""
