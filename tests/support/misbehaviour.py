"""Ways in which a proxy before a storage misbehaves: functions of the proxy."""


def refusing(status, code):
    return lambda proxy: lambda handler, seen: proxy.refuse(handler, status, code)


def breaking_off(proxy):
    def break_off(handler, seen):
        handler.close_connection = True
        return True

    return break_off


def answering_nonsense(proxy):
    return lambda handler, seen: proxy.answer(handler, 500, b"<html>") or True


def swallowing(proxy, operation):
    """The storage does what it is asked to, and the answer is lost on its way."""

    def swallow(handler, seen):
        if seen.operation != operation:
            return False
        proxy.forward(handler, answer=False)
        handler.close_connection = True
        return True

    return swallow


def swallowing_all(proxy):
    """The storage does what it is asked to, and no answer arrives."""

    def swallow(handler, seen):
        proxy.forward(handler, answer=False)
        handler.close_connection = True
        return True

    return swallow
