"""Every error crosses processes and has a code of its own."""

import pickle


def test_every_error_pickles():
    from infra import errors

    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    for cls in classes:
        copy = pickle.loads(pickle.dumps(cls("what must hold")))
        assert (type(copy), str(copy), copy.code) == (cls, "what must hold", cls.code)
    codes = [cls.code for cls in classes]
    assert len(codes) == len(set(codes))
