"""The node in a process of its own, and what a client asks it for."""

from __future__ import annotations

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}

SHUTDOWN = {
    "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
    "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}

# Small, quick, and metric where the camera hardly moves.
QUICK = {
    "checkpoint": "random:tiny",
    "threads": 1,
    "device": "cpu",
    "longest": 112,
    "keyframe_rotation_deg": 3.0,
    "metres_per_unit": 2.0,
    "map_period_s": 0.2,
    "diagnostics_period_s": 0.2,
}


def parameter_arguments(**parameters):
    """Of the node's command line."""
    merged = {**QUICK, **parameters}
    words = ["--ros-args"]
    for name, value in merged.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ["-p", f"{name}:={text}"]
    return words


class Manager:
    """Brings the node up and down, from a client's node."""

    def __init__(self, client, name="gen3r"):
        self._client = client
        self._change = client.node.create_client(ChangeState, f"{name}/change_state")
        self._get = client.node.create_client(GetState, f"{name}/get_state")
        self._set = client.node.create_client(SetParameters, f"{name}/set_parameters")

    def call(self, service, request, timeout=30.0):
        self._client.until(service.service_is_ready, timeout)
        return self._client.result(service.call_async(request), timeout)

    def do(self, transition, timeout=60.0):
        """Whether it succeeded."""
        number = SHUTDOWN[self.state] if transition == "shutdown" else TRANSITIONS[transition]
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(self._change, request, timeout).success

    def ask(self, transition):
        """The future of a transition."""
        self._client.until(self._change.service_is_ready)
        return self._change.call_async(ChangeState.Request(transition=Transition(id=TRANSITIONS[transition])))

    def wait(self, timeout=60.0):
        """Until the node answers. One that was killed is thought to be there for a while, and requests go to it."""
        self._client.answer(self._get, GetState.Request(), timeout)

    @property
    def state(self):
        return self._client.answer(self._get, GetState.Request()).current_state.label

    def set(self, name, value):
        """What came of it: success and reason."""
        kinds = {
            bool: (1, "bool_value"),
            int: (2, "integer_value"),
            float: (3, "double_value"),
            str: (4, "string_value"),
        }
        number, attribute = kinds[type(value)]
        own = Parameter(name=name, value=ParameterValue(type=number, **{attribute: value}))
        result = self._client.answer(self._set, SetParameters.Request(parameters=[own])).results[0]
        return result.successful, result.reason
