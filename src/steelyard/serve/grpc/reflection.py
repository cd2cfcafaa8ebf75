"""gRPC's standard reflection service, v1 and v1alpha: tells tools such as grpcurl what is served here."""

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from steelyard.serve.grpc.messages import HEALTH, INFERENCE, POOL, REFLECTION, message
from steelyard.serve.grpc.receive import Messages, Next, decoded

ALPHA = "grpc.reflection.v1alpha.ServerReflection"
"""The same messages under an older name, which tools still ask for first or second."""
_Request = message("grpc.reflection.v1.ServerReflectionRequest")
_Response = message("grpc.reflection.v1.ServerReflectionResponse")


async def reflect(next_question: Next, _: Any) -> AsyncGenerator[Any]:
    """One answer a question."""
    while (data := await next_question()) is not None:
        yield _answer(decoded(_Request, data))


def _answer(asked: Any) -> Any:
    answer = _Response(valid_host=asked.host, original_request=asked)
    question = asked.WhichOneof("message_request")
    try:
        if question == "list_services":
            for name in (INFERENCE, HEALTH, REFLECTION):
                answer.list_services_response.service.add(name=name)
        elif question == "file_by_filename":
            _add_file(answer, POOL.FindFileByName(asked.file_by_filename))
        elif question == "file_containing_symbol":
            _add_file(answer, POOL.FindFileContainingSymbol(asked.file_containing_symbol))
        elif question == "all_extension_numbers_of_type":  # proto3 has none
            found = POOL.FindMessageTypeByName(asked.all_extension_numbers_of_type)
            answer.all_extension_numbers_response.base_type_name = found.full_name
        else:
            raise KeyError(question)
    except KeyError:
        answer.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
        answer.error_response.error_message = "there is nothing of that name here"
    return answer


def _add_file(answer: Any, file: Any) -> None:
    answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)


def reflection_handlers(messages: Messages) -> tuple[grpc.GenericRpcHandler, ...]:
    """The service, under both names."""
    methods = {"ServerReflectionInfo": messages.stream(reflect, response=_Response)}
    return tuple(grpc.method_handlers_generic_handler(name, methods) for name in (REFLECTION, ALPHA))
