/* Has a server believe that its NOTIFY queue is full, for which up to version 16 it would take 8 GB on the disk. */
#include "postgres.h"

#include "fmgr.h"
#include "storage/shmem.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(fill_notify_queue);

/* The beginning of what async.c keeps in shared memory. */
typedef struct
{
    int head_page;
    int head_offset;
    int tail_page;
    int tail_offset;
    int stop_page;
} Queue;

/* The size that is kept there, and whether the queue is to be full. */
Datum fill_notify_queue(PG_FUNCTION_ARGS)
{
    bool found;
    Queue *queue = ShmemInitStruct("Async Queue Control", PG_GETARG_INT64(0), &found);

    if (!found)
        elog(ERROR, "there is no NOTIFY queue");
    /* As if somebody had not read what lies this far behind, in a ring. */
    queue->stop_page = PG_GETARG_BOOL(1) ? queue->head_page + 64 : queue->tail_page;
    PG_RETURN_VOID();
}
