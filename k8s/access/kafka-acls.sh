#!/bin/sh
# What each role may do in Kafka, as ACLs of an account of its own. Safe to repeat. As an administrator:
#
#   export KAFKA_ACLS="kafka-acls.sh --bootstrap-server kafka:9093 --command-config admin.properties"
#   k8s/access/kafka-acls.sh
#
# The brokers need an authorizer (authorizer.class.name) that denies what no ACL allows. The accounts come first,
# e.g. for SCRAM:
#
#   kafka-configs.sh ... --alter --entity-type users --entity-name notifyd-ws \
#       --add-config 'SCRAM-SHA-512=[password=...]'
#
# SUFFIX=-b gives the same rights to notifyd-ws-b and so on: docs/how-to/rotate-secrets.md.
#
# notifyd-operator is for commands at an administrator's terminal: dlq, contacts, sessions, send. An application
# that writes messages needs --operation Write --topic notifyd.messages, and no more.
# No names of files in what is split into words.
set -euf

: "${KAFKA_ACLS:?the command and its way to the brokers: see the head of this file}"
# As NOTIFYD_TOPIC_PREFIX; groups are named by what is before the dot.
prefix=${PREFIX:-notifyd.}
group=${prefix%.}

allow() { # ACCOUNT OPERATION[,OPERATION] RESOURCE...
    account=$1${SUFFIX:-}
    operations=$(printf -- '--operation %s ' $(echo "$2" | tr , ' '))
    shift 2
    # Words, on purpose: options and their values.
    # shellcheck disable=SC2086
    $KAFKA_ACLS --add --allow-principal "User:$account" $operations "$@"
}
topics() { # NAME...: the options that name them
    for name in "$@"; do printf -- '--topic %s%s ' "$prefix" "$name"; done
}
retry="retry.5s retry.1m retry.10m retry.1h"

# Everybody asks what topics there are, and which incarnation of them.
for role in api deliver operator persist prepare sweep ws; do
    allow "notifyd-$role" Describe --topic "$prefix" --resource-pattern-type prefixed
    allow "notifyd-$role" Read $(topics meta)
done

# Contacts: GET /v1/contacts/{user} looks one up. /v1/dlq reads dead letters, and puts them back where they died.
allow notifyd-api Read $(topics contacts dlq)
allow notifyd-api Write $(topics messages contacts events signals resend $retry)

allow notifyd-deliver Read $(topics messages resend $retry contacts) --group "$group-deliver"
# Contacts: that an address is gone.
allow notifyd-deliver Write $(topics events dlq $retry contacts)

allow notifyd-persist Read $(topics messages events) --group "$group-persist"
allow notifyd-persist Write $(topics dlq)

# Looks how far deliver has come, and deletes the groups of ws processes that are gone.
allow notifyd-sweep Write $(topics messages resend events)
allow notifyd-sweep Describe --group "$group-deliver"
allow notifyd-sweep Describe,Delete --group "$group-ws-" --resource-pattern-type prefixed

# Each process reads in a group of its own, and deletes it when it leaves.
allow notifyd-ws Read $(topics messages signals)
allow notifyd-ws Read,Delete --group "$group-ws-" --resource-pattern-type prefixed
allow notifyd-ws Write $(topics events signals)

# Makes the topics, and compares what they are with what they should be.
allow notifyd-prepare Create,DescribeConfigs,Alter,AlterConfigs --topic "$prefix" --resource-pattern-type prefixed
allow notifyd-prepare Write $(topics meta)

allow notifyd-operator Read,DescribeConfigs --topic "$prefix" --resource-pattern-type prefixed
# events and retry: where a record that died as a whole goes back to.
allow notifyd-operator Write $(topics messages resend contacts signals dlq events $retry)
