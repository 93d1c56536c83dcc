#!/bin/sh
# Turns the container's environment and arguments into Locust's command line, then becomes Locust.
# POSIX sh: runs under busybox ash and dash. What it promises is in README.md, "Running the image".
#
# Names here begin with entry_: assigning to a variable the container's environment also has would
# change what the locustfile sees.
set -eu

# Assembly replaces the word between the quotes by the version it installed.
locust_version='@locust@'

entry_scripts='/locust'
entry_home='/home/locust'

# One line, whatever a value holds.
say() {
    printf 'docker-entrypoint: %s\n' "$(printf '%s' "$1" | tr '\001-\037\177' ' ')" >&2 || :
}

warn() {
    say "warning: $1"
}

# 64 is EX_USAGE: not one of Locust's own codes, so that "not configured" never looks like "the load
# test failed".
fail() {
    say "$1"
    exit 64
}

case $locust_version in
[0-9]*.[0-9]*) ;;
*) fail "This script was installed without a Locust version, it has '$locust_version'." ;;
esac
entry_major=${locust_version%%.*}
entry_minor=${locust_version#*.}
entry_minor=${entry_minor%%[!0-9]*}

# older_than MAJOR MINOR
older_than() {
    [ "$entry_major" -lt "$1" ] || { [ "$entry_major" -eq "$1" ] && [ "$entry_minor" -lt "$2" ]; }
}

# Flavor 0 speaks of slaves, clients and --no-web; 1 of workers, users and --headless.
entry_flavor=1
entry_rate=--spawn-rate
if older_than 1 0; then
    entry_flavor=0
fi
if older_than 1 2; then
    entry_rate=--hatch-rate
fi

# trim TEXT: sets entry_trimmed to the text without blanks around it, such as an env file's CR.
trim() {
    entry_trimmed=${1#"${1%%[![:space:]]*}"}
    entry_trimmed=${entry_trimmed%"${entry_trimmed##*[![:space:]]}"}
}

# is_program WORD: whether exec would find it. Not `command -v`, which knows builtins and keywords.
is_program() {
    case $1 in
    '') return 1 ;;
    */*)
        [ -f "$1" ] && [ -x "$1" ]
        return
        ;;
    esac
    entry_rest=${PATH-}:
    while [ -n "$entry_rest" ]; do
        entry_folder=${entry_rest%%:*}
        entry_rest=${entry_rest#*:}
        if [ -f "${entry_folder:-.}/$1" ] && [ -x "${entry_folder:-.}/$1" ]; then
            return 0
        fi
    done
    return 1
}

# is_empty FOLDER: whether it can be read and holds nothing, hidden files included.
is_empty() {
    [ -d "$1" ] && [ -r "$1" ] && [ -x "$1" ] || return 1
    for entry_found in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if [ -e "$entry_found" ] || [ -L "$entry_found" ]; then
            return 1
        fi
    done
}

enter() {
    cd "$1" 2>/dev/null ||
        fail "Cannot enter $1 as user $(id -u):$(id -g). Make the folder mounted there readable for it, or run with --user."
}

# translate WORD: sets entry_translated to the spelling this Locust knows; empty if it has none.
translate() {
    case $1 in
    --*=*)
        entry_option=${1%%=*}
        entry_value="=${1#*=}"
        ;;
    -[cu][0-9]*)
        entry_option=${1%"${1#-?}"}
        entry_value="=${1#-?}"
        ;;
    *)
        entry_option=$1
        entry_value=
        ;;
    esac
    case $entry_flavor:$entry_option in
    0:--headless) entry_translated=--no-web ;;
    0:-u | 0:--users) entry_translated=--clients ;;
    0:--spawn-rate) entry_translated=$entry_rate ;;
    0:--expect-workers) entry_translated=--expect-slaves ;;
    0:--worker) entry_translated=--slave ;;
    1:--no-web) entry_translated=--headless ;;
    1:-c | 1:--clients) entry_translated=--users ;;
    1:--hatch-rate | 1:--spawn-rate) entry_translated=$entry_rate ;;
    1:--expect-slaves) entry_translated=--expect-workers ;;
    1:--slave) entry_translated=--worker ;;
    1:--port) entry_translated=--web-port ;;
    1:--no-reset-stats)
        entry_translated=
        warn "LOCUST_OPTS: dropped '$1', Locust $locust_version has no such option."
        return
        ;;
    *)
        entry_translated=$1
        return
        ;;
    esac
    if [ "$entry_translated" != "$entry_option" ]; then
        warn "LOCUST_OPTS: '$entry_option' is '$entry_translated' in Locust $locust_version."
    fi
    entry_translated=$entry_translated$entry_value
}

# Kubernetes gives every pod variables about every Service: one named "locust" sets
# LOCUST_PORT=tcp://…, which some versions of Locust read as an option and refuse to start with.
# The value is looked at again because a line of `env` may be part of another variable's value.
# LOCUST_HOST is never one of them, and a load test may well be for a tcp:// address.
for entry_name in $(env | sed -n 's|^\(LOCUST_[A-Za-z0-9_]*\)=[a-z]*://.*|\1|p'); do
    eval "entry_value=\${$entry_name-}"
    case $entry_value in
    tcp://* | udp://* | sctp://*)
        if [ "$entry_name" = LOCUST_HOST ]; then
            continue
        fi
        warn "ignored $entry_name='$entry_value', which looks like a Kubernetes service link."
        unset "$entry_name"
        ;;
    esac
done

entry_arguments=$#
if [ "$#" -gt 0 ]; then
    case $1 in
    locust) shift ;;
    -*) ;;
    *)
        if is_program "$1"; then
            exec "$@"
        fi
        ;;
    esac
fi

for entry_word in "$@"; do
    case $entry_word in
    -h | --help | -V | --version)
        unset LOCUST_MASTER LOCUST_MASTER_BIND_PORT
        exec locust "$@"
        ;;
    esac
done

# Only arguments: behave as the official image does, for its compose files, charts and operators.
# ATTACKED_HOST counts even when it is empty, the others only when they say something.
if [ "$entry_arguments" -gt 0 ] && [ -z "${ATTACKED_HOST+set}" ] &&
    [ -z "${LOCUST_MODE-}${LOCUST_FILE-}${LOCUST_MASTER-}${LOCUST_OPTS-}" ]; then
    unset LOCUST_MASTER
    if is_empty "$entry_scripts" && [ -f "$entry_home/locustfile.py" ]; then
        enter "$entry_home"
    else
        enter "$entry_scripts"
    fi
    exec locust "$@"
fi

trim "${LOCUST_MODE-}"
entry_mode=$(printf '%s' "$entry_trimmed" | tr '[:upper:]' '[:lower:]')
case $entry_mode in
'') entry_mode=standalone ;;
standalone | master | slave | worker) ;;
*) fail "LOCUST_MODE must be standalone, master, slave or worker, not '$entry_trimmed'." ;;
esac
entry_is_worker=
case $entry_mode in
slave | worker) entry_is_worker=yes ;;
esac

# What the person says with options needs no variable.
entry_has_host=$entry_is_worker
entry_has_master=
entry_has_file=
set -f
for entry_word in ${LOCUST_OPTS-} "$@"; do
    case $entry_word in
    -H* | --host | --host=* | --slave | --worker) entry_has_host=yes ;;
    --master-host | --master-host=*) entry_has_master=yes ;;
    -f* | --locustfile | --locustfile=*) entry_has_file=yes ;;
    esac
done
set +f

# A worker is told the host by its master.
entry_host=${ATTACKED_HOST:-${LOCUST_HOST-}}
if [ -z "$entry_host" ] && [ -z "$entry_has_host" ]; then
    if [ -z "${ATTACKED_HOST+set}" ]; then
        fail "You need to set the URL of the host to be tested (ATTACKED_HOST)."
    fi
    warn "ATTACKED_HOST is empty, so the host is the one the locustfile names."
fi

entry_master=${LOCUST_MASTER:-${LOCUST_MASTER_HOST:-${LOCUST_MASTER_NODE_HOST-}}}
if [ -n "$entry_is_worker" ] && [ -z "$entry_master" ] && [ -z "$entry_has_master" ]; then
    fail "You need to set LOCUST_MASTER (the master's host name or IP) in $entry_mode mode."
fi

entry_name=LOCUST_MASTER_BIND_PORT
trim "${LOCUST_MASTER_BIND_PORT-}"
if [ -z "$entry_trimmed" ] && [ -n "$entry_is_worker" ]; then
    entry_name=LOCUST_MASTER_NODE_PORT
    trim "${LOCUST_MASTER_NODE_PORT-}"
fi
entry_port=${entry_trimmed:-5557}
if [ "$entry_mode" != standalone ]; then
    case $entry_port in
    *[!0-9]* | ??????*) entry_valid= ;;
    *) entry_valid=yes ;;
    esac
    if [ -z "$entry_valid" ] || [ "$entry_port" -lt 1 ] || [ "$entry_port" -gt 65535 ]; then
        fail "$entry_name must be a port number (1-65535), not '$entry_port'."
    fi
fi

entry_file=${LOCUST_FILE:-${LOCUST_LOCUSTFILE:-locustfile.py}}
enter "$entry_scripts"
case $entry_file in
/* | *,* | *://* | -) ;;
*)
    if [ -z "$entry_has_file" ] && [ ! -e "$entry_file" ] && is_empty "$entry_scripts"; then
        # shellcheck disable=SC2016 # $PWD is for the reader's own shell
        fail "No '$entry_file' in $entry_scripts. Mount your scripts there: -v "'$PWD'":$entry_scripts"
    fi
    ;;
esac

# The command line is put together behind the arguments, which then move to its end: a later option
# wins, so the person's own are last.
entry_arguments=$#
set -- "$@" -f "$entry_file"
if [ -n "$entry_host" ]; then
    set -- "$@" "--host=$entry_host"
fi
if [ "$entry_mode" = master ]; then
    set -- "$@" --master "--master-bind-port=$entry_port"
elif [ -n "$entry_is_worker" ]; then
    if [ "$entry_flavor" -eq 0 ]; then
        set -- "$@" --slave
    else
        set -- "$@" --worker
    fi
    if [ -n "$entry_master" ]; then
        set -- "$@" "--master-host=$entry_master"
    fi
    set -- "$@" "--master-port=$entry_port"
fi

# Up to 2.26 a worker ends with 1 if it is given a run time, which is the master's to know; dropping it
# lets master and workers share one LOCUST_OPTS.
entry_drops_time=
if [ -n "$entry_is_worker" ] && older_than 2 27; then
    entry_drops_time=yes
fi
entry_drops_next=
set -f
for entry_word in ${LOCUST_OPTS-}; do
    if [ -n "$entry_drops_next" ]; then
        entry_drops_next=
        continue
    fi
    case $entry_drops_time:$entry_word in
    yes:-t* | yes:--run-time | yes:--run-time=*)
        warn "LOCUST_OPTS: dropped '$entry_word', Locust $locust_version takes a run time on the master only."
        case $entry_word in
        -t | --run-time) entry_drops_next=yes ;;
        esac
        continue
        ;;
    esac
    translate "$entry_word"
    if [ -n "$entry_translated" ]; then
        set -- "$@" "$entry_translated"
    fi
done
set +f
while [ "$entry_arguments" -gt 0 ]; do
    set -- "$@" "$1"
    shift
    entry_arguments=$((entry_arguments - 1))
done

# Locust 0.13.3 to 0.14.6 reads LOCUST_MASTER as its own on/off switch, and an empty value ends it too.
unset LOCUST_MASTER LOCUST_MASTER_BIND_PORT
exec locust "$@"
