"""Middlewares that every request passes before the application, and every answer after it.

From the outermost: :class:`~albef.serving.middleware.requests.Requests`, ``Tokens`` or ``Hosts`` of
:mod:`~albef.serving.middleware.access`, :class:`~albef.serving.middleware.admission.Admission`,
:class:`~albef.serving.following.Current` and
:class:`~albef.serving.middleware.json_calls.JsonCalls`. A middleware that refuses a request raises
an :class:`~albef.serving.errors.ApiError`.
"""
