"""Of several processes the first speaks, and the others when they must."""

import logging

import jax

from transformer_jax.distributed.log_of_first import first_speaks


def test_others_log_warnings_alone_with_their_number(monkeypatch, caplog):
    own, other = logging.getLogger("transformer_jax.somewhere"), logging.getLogger("elsewhere")

    def said() -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            with first_speaks():
                own.info("step %d", 5)
                own.warning("%s is damaged", "it")
                other.info("of another package")
            own.info("afterwards")
        return [record.getMessage() for record in caplog.records]

    assert said() == ["step 5", "it is damaged", "of another package", "afterwards"]
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    assert said() == ["process 3: it is damaged", "of another package", "afterwards"]
