"""What every request passes before the application, and every answer after it.

From the outermost: :class:`~albef.serving.middleware.requests.Requests`, ``Tokens`` or ``Hosts`` of
:mod:`~albef.serving.middleware.access`, ``Admission`` and ``Direct`` of
:mod:`~albef.serving.middleware.admission`. One that refuses raises a
:class:`~albef.serving.errors.Problem`.
"""
