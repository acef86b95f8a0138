/*
 * interpreter: runs code for the SDK's code interpreter inside the guest, in real Jupyter kernels.
 *
 *     HTTP (service) -> contexts and executions (context) -> kernel -> channels (ZeroMQ) -> ipykernel
 *                                                              |
 *                                                              launcher -> kernel.py, which forks kernels
 *
 * One libuv loop owns everything. A context has one kernel and runs one execution at a time; what the kernel
 * publishes for it becomes lines of JSON (output). A kernel that dies ends its execution with an error and is
 * replaced by a new one.
 *
 * The channels are unix sockets in a directory that only this user can enter, so the protocol's signature key
 * is empty: whoever could reach the sockets could as well attach to the kernel itself, and HMAC-SHA256 over
 * each message would cost time on both sides and prove nothing.
 */
#pragma once

#include "interpreter/agent.h"
#include "interpreter/channel.h"
#include "interpreter/connection.h"
#include "interpreter/context.h"
#include "interpreter/execution.h"
#include "interpreter/kernel.h"
#include "interpreter/launcher.h"
#include "interpreter/message.h"
#include "interpreter/output.h"
#include "interpreter/service.h"
