"""The machines that a journal speaks of, built again from its header, for replay."""

import msgspec

from steelyard.control.machine import ControlMachine
from steelyard.core.errors import JournalError
from steelyard.core.service import ServiceMachine
from steelyard.core.types import ServiceTimes
from steelyard.journal.records import CONTROL, Header, machine_name
from steelyard.journal.replay import Machine
from steelyard.policies.base import PolicyContext
from steelyard.policies.registry import make_policy
from steelyard.profile.tables import StageTimes, service_times


def machines_of(header: Header) -> dict[str, Machine]:
    """Fresh machines by name, as they were when the journal began; the control machine only with a policy.

    Raises:
        JournalError: the header's service times are not what this version writes.
        SpecError: the policy is not registered here.
    """
    times: dict[tuple[str, str], ServiceTimes] = {}
    for service, stages in header.service_times.items():
        for stage, plain in stages.items():
            try:
                times[service, stage] = service_times(msgspec.convert(plain, StageTimes))
            except msgspec.ValidationError as error:
                raise JournalError(f"service times of {service}.{stage}: {error}") from error
    machines: dict[str, Machine] = {}
    for name, promised in header.services.items():
        stages_of = {stage: known for (owner, stage), known in times.items() if owner == name}
        machines[machine_name(name)] = ServiceMachine(promised, stages_of, header.plans.get(name))
    if header.policy:
        policy = make_policy(header.policy, PolicyContext(header.services, times, header.policy_options))
        machines[CONTROL] = ControlMachine(header.services, policy, window_s=header.window_s)
    return machines
