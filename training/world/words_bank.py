"""The bank's own word lists: functions of the app, and how its products are named."""

from __future__ import annotations

from typing import Final, NamedTuple

from training.world.words import Words

FUNCTIONS: Final = tuple(
    (topic, Words(zh, en))
    for topic, zh, en in (
        line.split("|")
        for line in """
everyday/transfer|手机号转账|Transfer by phone number
everyday/transfer|跨行转账|Transfer to another bank
everyday/transfer|扫码转账|Scan to transfer
everyday/transfer|预约转账|Scheduled transfer
everyday/transfer|转账记录|Transfer history
everyday/transfer|收款人名册|Payee book
everyday/transfer|批量转账|Batch transfer
everyday/transfer|资金归集|Sweep from other banks
everyday/bills|电费|Electricity bill
everyday/bills|水费|Water bill
everyday/bills|燃气费|Gas bill
everyday/bills|宽带费|Broadband bill
everyday/bills|有线电视费|Cable television bill
everyday/bills|供暖费|Heating bill
everyday/bills|缴费记录|Bill history
everyday/bills|自动缴费|Automatic bill payment
everyday/account|我的账户|My accounts
everyday/account|收支明细|Income and spending
everyday/account|账单查询|Statements
everyday/account|收入证明|Proof of income
everyday/account|限额设置|Payment limits
everyday/account|安全中心|Security centre
everyday/account|挂失与解挂|Report a loss
everyday/account|网点预约|Book a branch visit
everyday/topup|话费充值|Mobile top-up
everyday/topup|流量充值|Data top-up
everyday/topup|游戏点卡|Game credits
everyday/topup|视频会员|Video membership
everyday/cards|信用卡还款|Credit card repayment
everyday/cards|办卡进度|Card application status
everyday/cards|激活卡片|Activate a card
everyday/cards|云闪付|QuickPass
everyday/cards|无卡取款|Cardless withdrawal
saving/deposit|存定期|Open a time deposit
saving/deposit|存款计算器|Deposit calculator
saving/certificate|存单转让|Certificate trading
saving/cash|零钱理财|Spare-cash account
saving/cash|工资宝|Salary saver
saving/goals|心愿储蓄|Savings jars
saving/exchange|结售汇|Exchange currency
saving/exchange|跨境汇款|Overseas remittance
saving/exchange|汇率查询|Exchange rates
investing/index|基金定投|Fund savings plan
investing/equity|基金排行|Fund ranking
investing/equity|我的持仓|My holdings
investing/bond|固收专区|Fixed-income corner
investing/gold|积存金|Gold savings plan
investing/gold|金价查询|Gold price
investing/wealth|理财超市|Wealth market
investing/wealth|风险测评|Risk assessment
investing/wealth|收益计算器|Return calculator
investing/wealth|资产诊断|Portfolio check
protection/health|我的保单|My policies
protection/accident|保险理赔|Insurance claims
protection/life|保障测算|Cover calculator
protection/motor|车险报价|Motor insurance quote
protection/household|家庭保障|Family cover
borrowing/consumer|我要借款|Borrow now
borrowing/consumer|额度查询|Credit limit
borrowing/mortgage|房贷还款|Mortgage repayment
borrowing/mortgage|提前还款|Early repayment
borrowing/smallbiz|经营贷申请|Business loan application
borrowing/carloan|购车分期|Car instalments
borrowing/instalment|账单分期办理|Instalment set-up
borrowing/instalment|贷款计算器|Loan calculator
retirement/pension|养老金账户|Pension account
retirement/pension|养老金测算|Pension calculator
retirement/annuity|年金领取|Annuity payments
retirement/care|大字版|Large-print edition
retirement/checkup|体检预约|Check-up booking
retirement/college|乐龄课堂|Senior classes
travel/flights|机票预订|Book a flight
travel/hotels|酒店预订|Book a hotel
travel/rail|火车票|Train tickets
travel/scenic|门票|Attraction tickets
travel/visas|签证办理|Visa service
dining/coffee|咖啡点单|Order coffee
dining/hotpot|餐厅排队|Restaurant queue
dining/takeaway|外卖点餐|Order takeaway
shopping/supermarket|积分商城|Points mall
shopping/fresh|生鲜到家|Groceries delivered
shopping/electronics|分期商城|Instalment mall
driving/fuel|一键加油|Fuel up
driving/charging|充电地图|Charging map
driving/parking|停车缴费|Pay for parking
driving/metro|乘车码|Transit code
driving/carcare|洗车预约|Car wash booking
family/tuition|学费缴纳|Tuition payment
family/books|绘本馆|Picture-book library
family/maternity|宝宝账户|Baby account
family/camp|研学报名|Study-camp sign-up
health/gym|运动步数|Step counter
health/pharmacy|在线购药|Online pharmacy
health/dental|口腔预约|Dental booking
culture/cinema|电影票|Cinema tickets
culture/concerts|演出票|Concert tickets
culture/museums|博物馆预约|Museum booking
culture/reading|听书|Audiobooks
culture/games|小游戏|Mini-games
home/property|物业缴费|Property fees
home/cleaning|家政预约|Book a cleaner
home/appliances|以旧换新|Trade-in
business/payroll|代发工资办理|Run payroll
business/invoices|发票管理|Invoice manager
business/merchant|收款码申请|Get a collection code
business/merchant|商户对账|Merchant reconciliation
business/tax|缴税|Pay taxes
business/supply|供应商付款|Pay suppliers
civic/social|社保查询|Social insurance record
civic/social|医保电子凭证|Medical insurance code
civic/housing|公积金查询|Housing fund record
civic/housing|公积金提取|Housing fund withdrawal
civic/hospital|预约挂号|Hospital registration
civic/fines|违章缴款|Pay a traffic fine
civic/charity|爱心捐赠|Donate
""".strip().splitlines()
    )
)

LOCAL_FUNCTIONS: Final = (  # offered city by city
    ("everyday/bills", Words("{}水电缴费", "{} water and electricity")),
    ("everyday/bills", Words("{}燃气缴费", "{} gas payment")),
    ("driving/metro", Words("{}地铁码", "{} metro code")),
    ("driving/parking", Words("{}停车", "{} parking")),
    ("civic/social", Words("{}社保服务", "{} social insurance")),
    ("civic/housing", Words("{}公积金服务", "{} housing fund")),
    ("civic/hospital", Words("{}医院挂号", "{} hospital registration")),
    ("civic/fines", Words("{}违章处理", "{} traffic fines")),
)

SERIES: Final = tuple(
    Words(*pair.split("/"))
    for pair in [
        "稳盈/Steady",
        "添利/Addprofit",
        "安心/Peace",
        "鑫选/Goldpick",
        "月月享/Monthly",
        "悦享/Enjoy",
        "恒丰/Constant",
        "启航/Setsail",
        "日新/Daynew",
        "丰收/Harvest",
        "天天宝/Daily",
        "长青/Evergreen",
        "福满/Fortune",
        "聚益/Gather",
        "远见/Foresight",
        "宁静/Serene",
    ]
)

SECTORS: Final = tuple(
    Words(*pair.split("/"))
    for pair in [
        "消费/Consumer",
        "医药/Pharma",
        "科技/Technology",
        "新能源/New Energy",
        "红利/Dividend",
        "沪深大盘/Large Cap",
        "中小盘/Small Cap",
        "半导体/Semiconductor",
        "军工/Defence",
        "农业/Agriculture",
        "金融/Financials",
        "环保/Environment",
        "港股/Hong Kong",
        "全球/Global",
        "人工智能/AI",
        "制造/Manufacturing",
    ]
)

TERMS: Final = (7, 14, 30, 60, 90, 120, 180, 270, 365, 540, 720, 1080)


class Line(NamedTuple):
    """A product line: interest topic, category, how it is named, and the ranges its terms are drawn from."""

    topic: str
    category: str
    title: Words  # {series} {sector} {term} {years} {rate} {merchant} {amount}
    share: float
    risk: tuple[int, int]
    rate: tuple[float, float]  # per cent a year; 0 where the line has none
    amounts: tuple[int, ...]  # minimum amounts, CNY
    repeat: str


LINES: Final = (
    Line("saving/deposit", "deposit/time",
         Words("{years}年定期存款{series}·利率{rate}%",
               "{years}-year {series} time deposit, {rate}%"),
         10, (1, 1), (1.1, 2.3), (50, 1_000, 10_000), "always"),
    Line("saving/certificate", "deposit/certificate",
         Words("{series}{years}年大额存单{rate}%",
               "{series} {years}-year certificate of deposit, {rate}%"),
         6, (1, 1), (1.5, 2.6), (200_000, 300_000), "always"),
    Line("saving/goals", "deposit/goal",
         Words("{series}心愿存{term}天·{rate}%",
               "{series} goal saver {term} days, {rate}%"),
         4, (1, 1), (1.0, 1.9), (1, 100), "after_maturity"),
    Line("saving/cash", "wealth/cash",
         Words("{series}现金管理{term}号",
               "{series} cash management No. {term}"),
         6, (1, 2), (1.4, 2.2), (1, 100), "always"),
    Line("investing/wealth", "wealth/fixed",
         Words("{series}{term}天稳健理财（{rate}%）",
               "{series} {term}-day wealth product ({rate}%)"),
         14, (2, 3), (2.2, 3.8), (1, 1_000, 10_000), "after_maturity"),
    Line("investing/wealth", "wealth/mixed",
         Words("{series}{sector}混合理财{term}天",
               "{series} {sector} mixed wealth, {term} days"),
         8, (3, 4), (2.5, 5.2), (1_000, 10_000, 50_000), "after_maturity"),
    Line("investing/index", "fund/index",
         Words("{series}{sector}指数基金",
               "{series} {sector} Index Fund"),
         9, (3, 4), (0, 0), (10, 100), "always"),
    Line("investing/equity", "fund/equity",
         Words("{series}{sector}股票基金",
               "{series} {sector} Equity Fund"),
         9, (4, 5), (0, 0), (10, 100, 1_000), "always"),
    Line("investing/bond", "fund/bond",
         Words("{series}{term}天持有债券基金",
               "{series} {term}-day Holding Bond Fund"),
         7, (2, 3), (0, 0), (10, 100), "always"),
    Line("saving/exchange", "wealth/currency",
         Words("{series}美元理财{term}天",
               "{series} US dollar wealth, {term} days"),
         3, (2, 3), (3.0, 4.6), (10_000, 50_000), "after_maturity"),
    Line("investing/gold", "gold/savings",
         Words("{series}积存金{amount}元起",
               "{series} gold savings from ¥{amount}"),
         3, (3, 4), (0, 0), (200, 700, 1_000), "always"),
    Line("protection/health", "insurance/health",
         Words("{series}百万医疗险·{amount}元起",
               "{series} medical cover from ¥{amount}"),
         4, (1, 1), (0, 0), (168, 268, 388, 598), "never"),
    Line("protection/accident", "insurance/accident",
         Words("{series}综合意外险·{amount}元起",
               "{series} accident cover from ¥{amount}"),
         3, (1, 1), (0, 0), (36, 66, 99, 158), "never"),
    Line("protection/life", "insurance/life",
         Words("{series}定期寿险{years}年",
               "{series} {years}-year term life"),
         3, (1, 2), (0, 0), (600, 1_200), "never"),
    Line("protection/motor", "insurance/motor",
         Words("{series}车险·{amount}元起",
               "{series} motor insurance from ¥{amount}"),
         2, (1, 1), (0, 0), (950, 1_450, 2_300), "after_maturity"),
    Line("protection/household", "insurance/home",
         Words("{series}家财险·{amount}元起",
               "{series} home insurance from ¥{amount}"),
         2, (1, 1), (0, 0), (80, 120, 199), "after_maturity"),
    Line("retirement/pension", "wealth/pension",
         Words("{series}养老理财{years}年",
               "{series} {years}-year pension wealth"),
         4, (2, 3), (2.6, 4.2), (1, 1_000), "always"),
    Line("retirement/annuity", "insurance/annuity",
         Words("{series}年金险{years}年领取",
               "{series} annuity, {years} years of income"),
         3, (1, 2), (0, 0), (5_000, 10_000), "never"),
    Line("borrowing/consumer", "loan/consumer",
         Words("{series}消费贷·年化{rate}%",
               "{series} consumer loan at {rate}%"),
         4, (0, 0), (3.0, 8.9), (1_000, 5_000), "always"),
    Line("borrowing/mortgage", "loan/mortgage",
         Words("{series}住房贷款·{rate}%起",
               "{series} home loan from {rate}%"),
         2, (0, 0), (2.9, 4.1), (100_000,), "never"),
    Line("borrowing/smallbiz", "loan/business",
         Words("{series}经营贷·年化{rate}%起",
               "{series} business loan from {rate}%"),
         3, (0, 0), (2.8, 6.5), (10_000, 50_000), "always"),
    Line("borrowing/carloan", "loan/car",
         Words("{series}车贷{years}年·{rate}%",
               "{series} {years}-year car loan, {rate}%"),
         2, (0, 0), (2.5, 6.0), (30_000,), "after_maturity"),
    Line("borrowing/instalment", "loan/instalment",
         Words("{series}账单分期{years}年·{rate}%",
               "{series} {years}-year bill instalments, {rate}%"),
         2, (0, 0), (5.0, 12.0), (500,), "always"),
    Line("lifestyle", "card/credit",
         Words("{merchant}{topic}联名信用卡",
               "{merchant} {topic} credit card"),
         8, (0, 0), (0, 0), (0,), "never"),
)  # fmt: skip
