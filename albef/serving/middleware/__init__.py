"""What every request passes before the application, and every answer after it.

From the outermost: :class:`~albef.serving.middleware.requests.Requests`, ``Tokens`` or ``Hosts`` of
:mod:`~albef.serving.middleware.access`, ``Admission`` of
:mod:`~albef.serving.middleware.admission`, :class:`~albef.serving.following.Current`, and
``Direct``, of ``admission`` too. One that refuses raises a
:class:`~albef.serving.errors.Problem`.
"""
