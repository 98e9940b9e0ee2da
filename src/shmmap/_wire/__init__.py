"""What crosses the process border, and how.

In reading order: `rows` (what is noted of a profiled map), `control` and `claims` (what is shared of a map
and of a team, byte by byte), `records`, `messages`, `unpickling`, `arrays`, `bundles`, `by_value`, `pickling`
(what the caller sends), `functions`, `results`, `chains` and `reports` (results and exceptions), `refusals`
(what to say of what cannot be sent), `surroundings` (with `search_path`, `loggers` and `inheritance`: what a
worker is given of its caller), `per_thread`, `relay` (what workers print).
"""

from .about import VERB_FOLDING, VERBS, About, label_of
from .arrays import INLINE_NBYTES, Copies
from .bundles import Bundle, Mode
from .chains import (
    describe_exception,
    leave_out_ours,
    note_inherited_exceptions,
    raise_as_is,
    stand_in,
)
from .claims import (
    AT_PIPE,
    CHUNK,
    CLAIM,
    CLAIM_END,
    CONTROL,
    DREW,
    ENTERED,
    EXPECTED,
    INDEX,
    LAST_CHUNK,
    LEFT,
    PID,
    POSTED,
    RANKS_MAX,
    READING,
    RELAYED,
    RETURNS,
    RUNG,
    RUNNING,
    SINCE,
    SLOT_WORDS,
    TAKEN,
    ClaimSlots,
)
from .control import ARGUMENTS_NBYTES, OUTPUT_NBYTES, ControlBlock, has_data
from .functions import pack_apart, pack_function
from .inheritance import ask_caller, lend, tell_forked
from .messages import (
    BECOMES_TEMPLATE,
    CACHED_FUNCTIONS,
    DONE_WITH,
    END_WORKER,
    EXIT_CHANGED,
    EXIT_DESCRIPTORS,
    FORKED,
    HELLO,
    LOOK,
    REAPED,
    RECEIVE_NBYTES,
    REPLY,
    SEE_LINE,
    TOKEN_NBYTES,
    WAKE_NBYTES,
    Ask,
    Attach,
    Call,
    Close,
    Descriptors,
    Drop,
    Failed,
    Lend,
    News,
    Open,
    Payload,
    Ready,
    ReleasePages,
    Settings,
    Start,
    Unattended,
    dumps_message,
    fit,
    make_payload,
    read_fitted,
    read_payload,
    wake_record,
)
from .per_thread import own_decimal_context, thread_settings
from .pickling import Packed, are_plain, load_picklers, pack, pack_by_value, pack_for, pack_plain
from .records import (
    FINISHED_INLINE,
    FINISHED_NBYTES,
    FINISHED_WRITE_NBYTES,
    FUNCTION_INLINE,
    FUNCTION_NBYTES,
    READ_NBYTES,
    WRITE_NBYTES,
    Page,
    Record,
    RecordKind,
    Submitted,
    leave_record,
    numbers_in,
    pack_finished,
    unpack_finished,
    unpack_records,
)
from .refusals import cannot_send, is_inheritable, is_sendable, refuse_open_files
from .relay import LOG, LOST_WRITE, STDERR, STDOUT, WARNING, Relay, parse
from .reports import Report, advise, report_exception, restore_any, restore_exception
from .results import pack_pieces, pack_result
from .rows import ROW, ROWS_MOST, Profiled, RowKind, RowLog, Rows, merge_rows, unpack_rows
from .search_path import absolute_path
from .surroundings import (
    Surroundings,
    apply,
    limit_changes,
    note_surroundings,
    pack_surroundings,
    put_back,
    snapshot,
)
from .unpickling import unpack
