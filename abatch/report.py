def write_report(engine, config, run_date):
    return "none"
